// How many token ids a tokenizer.json knows, so that ids given by a caller can be held against it.
#pragma once

#include <cstdint>
#include <string>

namespace soda {

// One more than the greatest id in the file's vocabulary and added tokens; 0 where it says nothing of ids.
int64_t vocabulary_size(const std::string& path);

}  // namespace soda
