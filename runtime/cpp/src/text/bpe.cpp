#include "bpe.hpp"

#include <queue>
#include <tuple>

namespace soda {
namespace {

std::string text_of(const Json& model, const char* key) {
    return model.contains(key) && model[key].is_string() ? model[key].get<std::string>() : "";
}

// A token of a word and its neighbours, while they are merged.
struct Link {
    Token token;
    ptrdiff_t before, after;  // -1: none
    bool gone = false;
};

}  // namespace

BytePairs::BytePairs(const Json& model)
    : prefix_(text_of(model, "continuing_subword_prefix")),
      suffix_(text_of(model, "end_of_word_suffix")),
      fuses_unknown_(model.value("fuse_unk", false)),
      whole_words_(model.value("ignore_merges", false)) {
    if (model.value("byte_fallback", false)) throw Unsupported("a BPE model with byte_fallback");
    for (const auto& item : model.at("vocab").items()) ids_[item.key()] = item.value().get<int64_t>();
    int64_t rank = 0;
    for (const Json& merge : model.at("merges")) {
        const bool pair = merge.is_array();
        const std::string text = pair ? "" : merge.get<std::string>();
        const size_t space = text.find(' ');
        const std::string first = pair ? merge.at(0).get<std::string>() : text.substr(0, space),
                          second = pair ? merge.at(1).get<std::string>() : text.substr(space + 1);
        const auto whole = id_of(first + second.substr(prefix_.size())), a = id_of(first), b = id_of(second);
        if (!a || !b || !whole) throw Unsupported("merges of tokens that are not in its vocabulary");
        merges_[{*a, *b}] = {rank++, *whole};
    }
    unknown_ = id_of(text_of(model, "unk_token"));
}

std::optional<int64_t> BytePairs::id_of(const std::string& token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional<int64_t>(found->second);
}

std::vector<Token> BytePairs::characters_of(const Text& piece) const {
    std::vector<Token> tokens;
    bool was_unknown = false;
    for (size_t i = 0; i < piece.size(); ++i) {
        std::string symbol = i ? prefix_ : "";
        append_utf8(piece[i].code, symbol);
        if (i + 1 == piece.size()) symbol += suffix_;
        const auto id = id_of(symbol);
        if (id)
            tokens.push_back({*id, piece[i].end});
        else if (was_unknown && fuses_unknown_)
            tokens.back().end = piece[i].end;
        else if (unknown_)
            tokens.push_back({*unknown_, piece[i].end});
        was_unknown = !id && unknown_;
    }
    return tokens;
}

void BytePairs::tokenize(const Text& piece, std::vector<Token>& tokens) const {
    if (whole_words_)
        if (const auto id = id_of(to_utf8(piece))) return tokens.push_back({*id, piece.back().end});
    const std::vector<Token> characters = characters_of(piece);
    const auto count = ptrdiff_t(characters.size());
    std::vector<Link> word;
    for (ptrdiff_t i = 0; i < count; ++i) word.push_back({characters[size_t(i)], i - 1, i + 1 < count ? i + 1 : -1});
    using Offer = std::tuple<int64_t, ptrdiff_t, int64_t, int64_t>;  // rank, place, the two tokens
    std::priority_queue<Offer, std::vector<Offer>, std::greater<>> offers;
    const auto offer = [&](ptrdiff_t place) {
        if (place < 0 || word[size_t(place)].after < 0) return;
        const int64_t first = word[size_t(place)].token.id, second = word[size_t(word[size_t(place)].after)].token.id;
        const auto merge = merges_.find({first, second});
        if (merge != merges_.end()) offers.emplace(merge->second.rank, place, first, second);
    };
    for (ptrdiff_t i = 0; i < count; ++i) offer(i);
    while (!offers.empty()) {
        const auto [rank, place, first, second] = offers.top();
        offers.pop();
        Link& link = word[size_t(place)];
        if (link.gone || link.after < 0) continue;
        Link& next = word[size_t(link.after)];
        if (link.token.id != first || next.token.id != second) continue;  // merged with others meanwhile
        link.token = {merges_.at({first, second}).id, std::max(link.token.end, next.token.end)};
        next.gone = true;
        link.after = next.after;
        if (link.after >= 0) word[size_t(link.after)].before = place;
        offer(link.before);
        offer(place);
    }
    for (const Link& link : word)
        if (!link.gone) tokens.push_back(link.token);
}

}  // namespace soda
