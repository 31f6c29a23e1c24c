// Unigram: the pieces whose scores add up to most (Kudo 2018).
#pragma once

#include <unordered_map>

#include "models.hpp"

namespace soda {

class Unigram : public TokenModel {
public:
    explicit Unigram(const Json& model);
    void tokenize(const Text& piece, std::vector<Token>& tokens) const override;
    std::optional<int64_t> id_of(const std::string& token) const override;

private:
    std::unordered_map<std::string, int64_t> ids_;
    std::vector<double> scores_;
    int64_t unknown_ = -1;
    double unknown_score_ = 0;
    size_t longest_ = 0;  // bytes of a piece
};

}  // namespace soda
