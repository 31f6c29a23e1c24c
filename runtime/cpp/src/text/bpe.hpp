// Byte pair encoding: neighbours are merged in the order that training found (Sennrich et al. 2016).
#pragma once

#include <map>
#include <unordered_map>

#include "models.hpp"

namespace soda {

class BytePairs : public TokenModel {
public:
    explicit BytePairs(const Json& model);
    void tokenize(const Text& piece, std::vector<Token>& tokens) const override;
    std::optional<int64_t> id_of(const std::string& token) const override;

private:
    struct Merge {
        int64_t rank, id;
    };

    std::vector<Token> characters_of(const Text& piece) const;

    std::unordered_map<std::string, int64_t> ids_;
    std::map<std::pair<int64_t, int64_t>, Merge> merges_;
    std::string prefix_, suffix_;  // of characters that continue a word, of a word's last one
    std::optional<int64_t> unknown_;
    bool fuses_unknown_, whole_words_;
};

}  // namespace soda
