// What a tokenizer.json does to a text before its model: normalizers change it, pre-tokenizers take it apart.
#pragma once

#include <functional>

#include "models.hpp"

namespace soda {

using Pieces = std::vector<Text>;
using Normalizer = std::function<Text(const Text&)>;
using Splitter = std::function<Pieces(const Pieces&)>;

// Of `normalizer` and `pre_tokenizer`; null does nothing. Raise Json::exception for another form, Unsupported for
// another kind.
Normalizer make_normalizer(const Json& json);
Splitter make_splitter(const Json& json);
// SentencePiece's own table of replacements (normalizer.cpp calls it).
Normalizer make_precompiled(const std::string& base64);

}  // namespace soda
