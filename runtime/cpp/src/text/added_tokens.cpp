#include "added_tokens.hpp"

#include <algorithm>

namespace soda {

AddedTokens::AddedTokens(const Json& json, const Normalizer& normalize) {
    if (json.is_null()) return;
    for (const Json& entry : json) {
        if (entry.at("single_word").get<bool>()) throw Unsupported("an added token that must be a word of its own");
        const auto name = entry.at("content").get<std::string>();
        const auto content = read_utf8(name);
        if (!content) throw Unsupported("an added token that is not UTF-8");
        const bool is_normalized = entry.at("normalized").get<bool>();
        (is_normalized ? normalized_ : raw_)
            .push_back({name, is_normalized ? normalize(*content) : *content, entry.at("id").get<int64_t>(),
                        entry.at("lstrip").get<bool>(), entry.at("rstrip").get<bool>()});
    }
}

std::optional<int64_t> AddedTokens::id_of(const std::string& token) const {
    for (const List* list : {&raw_, &normalized_})
        for (const Added& each : *list)
            if (each.name == token) return each.id;
    return {};
}

// The longest one at the first place that has any.
void AddedTokens::split_by(const List& tokens, const Text& text, std::vector<Part>& parts) {
    const auto same = [](const Char& a, const Char& b) { return a.code == b.code; };
    size_t begin = 0;  // of what no token has taken
    for (size_t i = 0; i < text.size();) {
        const Added* found = nullptr;
        for (const Added& each : tokens) {
            const size_t size = each.content.size();
            if (size == 0 || i + size > text.size() || (found && found->content.size() >= size)) continue;
            if (std::equal(each.content.begin(), each.content.end(), text.begin() + ptrdiff_t(i), same)) found = &each;
        }
        if (!found) {
            ++i;
            continue;
        }
        size_t from = i, to = i + found->content.size();
        while (found->takes_white_before && from > begin && is_white(text[from - 1].code)) --from;
        while (found->takes_white_after && to < text.size() && is_white(text[to].code)) ++to;
        if (from > begin) parts.push_back({Text(text.begin() + ptrdiff_t(begin), text.begin() + ptrdiff_t(from)), {}});
        parts.push_back({{}, Token{found->id, text[to - 1].end}});
        begin = i = to;
    }
    if (begin < text.size()) parts.push_back({Text(text.begin() + ptrdiff_t(begin), text.end()), {}});
}

std::vector<Part> AddedTokens::split(const Text& text, const Normalizer& normalize) const {
    std::vector<Part> raw, parts;
    split_by(raw_, text, raw);
    for (Part& part : raw)
        if (part.token)
            parts.push_back(std::move(part));
        else
            split_by(normalized_, normalize(part.text), parts);
    return parts;
}

}  // namespace soda
