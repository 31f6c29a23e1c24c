#include "unigram.hpp"

#include <algorithm>
#include <limits>

#include "../errors.hpp"

namespace soda {
namespace {

constexpr double unknown_penalty = 10.0;  // below the least score, for a character that no piece has

// The best way to a place in a piece: of which token it ends, and where that begins.
struct Way {
    double score = 0;
    int64_t id = -1;
    std::optional<size_t> begin;
};

}  // namespace

Unigram::Unigram(const Json& model) {
    if (model.value("byte_fallback", false)) throw Unsupported("a Unigram model with byte_fallback");
    double least = std::numeric_limits<double>::infinity();
    for (const Json& entry : model.at("vocab")) {
        const auto piece = entry.at(0).get<std::string>();
        ids_[piece] = int64_t(scores_.size());
        scores_.push_back(entry.at(1).get<double>());
        least = std::min(least, scores_.back());
        longest_ = std::max(longest_, piece.size());
    }
    if (model.at("unk_id").is_number()) unknown_ = model["unk_id"].get<int64_t>();
    unknown_score_ = least - unknown_penalty;
}

std::optional<int64_t> Unigram::id_of(const std::string& token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional<int64_t>(found->second);
}

void Unigram::tokenize(const Text& piece, std::vector<Token>& tokens) const {
    std::vector<size_t> places = {0};  // of each character, in bytes
    std::string bytes;
    for (const Char& each : piece) {
        append_utf8(each.code, bytes);
        places.push_back(bytes.size());
    }
    std::vector<Way> best(piece.size() + 1);
    for (size_t i = 0; i < piece.size(); ++i) {
        const auto offer = [&](size_t end, double score, int64_t id) {
            Way& way = best[end];
            if (!way.begin || score > way.score) way = {score, id, i};
        };
        bool is_piece = false;
        for (size_t end = i + 1; end <= piece.size() && places[end] - places[i] <= longest_; ++end) {
            const auto found = ids_.find(bytes.substr(places[i], places[end] - places[i]));
            if (found == ids_.end()) continue;
            offer(end, scores_[size_t(found->second)] + best[i].score, found->second);
            is_piece = is_piece || end == i + 1;
        }
        if (is_piece) continue;
        if (unknown_ < 0) throw BundleError("it has a character that the tokenizer does not know, and no token for it");
        offer(i + 1, unknown_score_ + best[i].score, unknown_);
    }
    const size_t first = tokens.size();
    for (size_t end = piece.size(); end > 0; end = *best[end].begin) {
        const bool continues = best[end].id == unknown_ && tokens.size() > first && tokens.back().id == unknown_;
        if (continues) continue;  // unknown characters side by side are one token
        size_t reached = 0;
        for (size_t i = *best[end].begin; i < end; ++i) reached = std::max(reached, piece[i].end);
        tokens.push_back({best[end].id, reached});
    }
    std::reverse(tokens.begin() + ptrdiff_t(first), tokens.end());
}

}  // namespace soda
