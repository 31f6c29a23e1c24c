#include <algorithm>

#include "steps.hpp"

namespace soda {
namespace {

// Runs of at least `least` characters that fit, each replaced by one text.
Normalizer replace_runs(bool (*fits)(char32_t), size_t least, const Text& content) {
    return [=](const Text& text) {
        Text changed;
        for (size_t i = 0; i < text.size();) {
            size_t end = i;
            while (end < text.size() && fits(text[end].code)) ++end;
            if (end - i >= least) {
                for (const Char& each : content) changed.push_back({each.code, text[end - 1].end});
                i = end;
            } else {
                changed.push_back(text[i++]);
            }
        }
        return changed;
    };
}

Normalizer replace_text(const Text& pattern, const Text& content) {
    return [=](const Text& text) {
        const auto same = [](const Char& a, const Char& b) { return a.code == b.code; };
        Text changed;
        for (auto at = text.begin(); at != text.end();) {
            const auto end = at + std::min(ptrdiff_t(pattern.size()), text.end() - at);
            if (!pattern.empty() && std::equal(at, end, pattern.begin(), pattern.end(), same)) {
                for (const Char& each : content) changed.push_back({each.code, (end - 1)->end});
                at = end;
            } else {
                changed.push_back(*at++);
            }
        }
        return changed;
    };
}

Text read_text(const Json& json) {
    auto text = read_utf8(json.get<std::string>());
    if (!text) throw Unsupported("a text that is not UTF-8");
    return *text;
}

Normalizer make_replace(const Json& json) {
    const Text content = read_text(json.at("content"));
    const Json& pattern = json.at("pattern");
    if (pattern.contains("String")) return replace_text(read_text(pattern["String"]), content);
    const auto expression = pattern.at("Regex").get<std::string>();
    if (expression == "\\s+") return replace_runs(is_white, 1, content);
    if (expression == " {2,}") return replace_runs([](char32_t code) { return code == ' '; }, 2, content);
    throw Unsupported("a normalizer of the pattern " + expression);
}

Normalizer make_strip(bool left, bool right) {
    return [=](const Text& text) {
        const auto is_kept = [](const Char& each) { return !is_white(each.code); };
        const auto begin = left ? std::find_if(text.begin(), text.end(), is_kept) : text.begin();
        auto end = text.end();
        while (right && end != begin && !is_kept(*(end - 1))) --end;
        return Text(begin, end);
    };
}

}  // namespace

Normalizer make_normalizer(const Json& json) {
    if (json.is_null()) return [](const Text& text) { return text; };
    const auto type = json.at("type").get<std::string>();
    if (type == "NFC") return compose;
    if (type == "Lowercase") return lower_case;
    if (type == "Replace") return make_replace(json);
    if (type == "Strip") return make_strip(json.at("strip_left").get<bool>(), json.at("strip_right").get<bool>());
    if (type == "Precompiled") {
        const Json& table = json.at("precompiled_charsmap");
        return table.is_string() ? make_precompiled(table.get<std::string>()) : make_normalizer(Json());
    }
    if (type != "Sequence") throw Unsupported("a normalizer " + type);
    std::vector<Normalizer> steps;
    for (const Json& step : json.at("normalizers")) steps.push_back(make_normalizer(step));
    return [steps](const Text& text) {
        Text changed = text;
        for (const Normalizer& step : steps) changed = step(changed);
        return changed;
    };
}

}  // namespace soda
