// The two models that pieces of a text become tokens by: Unigram (T5) and byte pair encoding (CLIP).
#pragma once

#include <memory>

#include "../strict_json.hpp"
#include "unicode.hpp"

namespace soda {

struct Token {
    int64_t id;
    size_t end;  // of the text that it stands for, as in Char
};

class TokenModel {
public:
    TokenModel() = default;
    virtual ~TokenModel() = default;
    TokenModel(const TokenModel&) = delete;
    TokenModel& operator=(const TokenModel&) = delete;
    virtual void tokenize(const Text& piece, std::vector<Token>& tokens) const = 0;
    virtual std::optional<int64_t> id_of(const std::string& token) const = 0;
};

// Of `model` in a tokenizer.json. Raises Json::exception for another form, Unsupported for another model.
std::unique_ptr<TokenModel> make_token_model(const Json& model);

// A tokenizer that this library does not read; the message says what of it.
struct Unsupported : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace soda
