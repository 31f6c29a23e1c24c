#include <algorithm>

#include "steps.hpp"

namespace soda {
namespace {

// The length of what a pattern matches at a place, 0 for nothing.
using Match = size_t (*)(const Text& text, size_t at);

bool is_other(char32_t code) {
    return !is_white(code) && !is_letter(code) && !is_number(code);
}

size_t run_of(bool (*fits)(char32_t), const Text& text, size_t at) {
    size_t end = at;
    while (end < text.size() && fits(text[end].code)) ++end;
    return end - at;
}

size_t literal(const char* wanted, const Text& text, size_t at) {
    size_t i = 0;
    for (; wanted[i]; ++i)
        if (at + i >= text.size() || text[at + i].code != char32_t(wanted[i])) return 0;
    return i;
}

size_t first_literal(std::initializer_list<const char*> choices, const Text& text, size_t at) {
    for (const char* each : choices)
        if (const size_t length = literal(each, text, at)) return length;
    return 0;
}

// CLIP's pattern, below.
size_t match_clip(const Text& text, size_t at) {
    if (const size_t length = first_literal(
            {"<|startoftext|>", "<|endoftext|>", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}, text, at))
        return length;
    if (const size_t letters = run_of(is_letter, text, at)) return letters;
    return is_number(text[at].code) ? 1 : run_of(is_other, text, at);
}

// GPT-2's: '(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t match_gpt2(const Text& text, size_t at) {
    if (const size_t length = first_literal({"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}, text, at)) return length;
    const size_t space = text[at].code == ' ' && at + 1 < text.size();
    for (const auto fits : {is_letter, is_number, is_other})
        if (const size_t length = run_of(fits, text, at + space)) return space + length;
    const size_t white = run_of(is_white, text, at);
    return at + white < text.size() && white > 1 ? white - 1 : white;
}

Pieces cut(const Text& text, Match match, bool keeps_rest) {
    Pieces pieces;
    for (size_t i = 0; i < text.size();) {
        const size_t length = match(text, i);
        const size_t end = i + std::max<size_t>(length, 1);
        if (length || keeps_rest) pieces.emplace_back(text.begin() + ptrdiff_t(i), text.begin() + ptrdiff_t(end));
        i = end;
    }
    return pieces;
}

Splitter for_each_piece(const std::function<Pieces(const Text&)>& split) {
    return [split](const Pieces& pieces) {
        Pieces all;
        for (const Text& piece : pieces)
            for (Text& part : split(piece))
                if (!part.empty()) all.push_back(std::move(part));
        return all;
    };
}

Pieces split_at_white(const Text& text) {
    Pieces words(1);
    for (const Char& each : text)
        if (is_white(each.code))
            words.emplace_back();
        else
            words.back().push_back(each);
    return words;
}

Splitter make_metaspace(const Json& json) {
    const auto mark = read_utf8(json.at("replacement").get<std::string>());
    const auto scheme = json.value("prepend_scheme", json.value("add_prefix_space", true) ? "always" : "never");
    if (!mark || mark->size() != 1 || (scheme != "always" && scheme != "never"))
        throw Unsupported("a pre-tokenizer Metaspace that prepends " + scheme);
    const char32_t code = mark->front().code;
    const bool prepends = scheme == "always", splits = json.value("split", true);
    return for_each_piece([=](const Text& text) {
        Pieces pieces(1);
        if (prepends && text[0].code != ' ' && text[0].code != code) pieces.back().push_back({code, 0});
        for (Char each : text) {
            if (each.code == ' ') each.code = code;
            if (each.code == code && splits) pieces.emplace_back();
            pieces.back().push_back(each);
        }
        return pieces;
    });
}

// A byte as a character that prints: GPT-2's.
char32_t character_of(unsigned char byte) {
    const auto prints = [](unsigned value) {
        return (value >= '!' && value <= '~') || (value >= 0xA1 && value <= 0xAC) || (value >= 0xAE && value <= 0xFF);
    };
    if (prints(byte)) return byte;
    char32_t next = 256;
    for (unsigned value = 0; value < byte; ++value) next += !prints(value);
    return next;
}

Splitter make_byte_level(const Json& json) {
    const bool prefix = json.at("add_prefix_space").get<bool>(), uses_pattern = json.value("use_regex", true);
    return for_each_piece([=](const Text& text) {
        Text whole = prefix && text[0].code != ' ' ? Text{{' ', 0}} : Text();
        whole.insert(whole.end(), text.begin(), text.end());
        Pieces pieces = uses_pattern ? cut(whole, match_gpt2, true) : Pieces{whole};
        for (Text& piece : pieces) {
            Text bytes;
            for (const Char& each : piece) {
                std::string utf8;
                append_utf8(each.code, utf8);
                for (const char byte : utf8)
                    bytes.push_back({character_of(static_cast<unsigned char>(byte)), each.end});
            }
            piece = std::move(bytes);
        }
        return pieces;
    });
}

Splitter make_split(const Json& json) {
    const Json& pattern = json.at("pattern");
    const std::string expression = pattern.contains("Regex") ? pattern["Regex"].get<std::string>() : "a text";
    const char* clip =
        "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";
    if (expression != clip || json.at("behavior") != "Removed" || !json.at("invert").get<bool>())
        throw Unsupported("a pre-tokenizer that splits at " + expression);
    return for_each_piece([](const Text& text) { return cut(text, match_clip, false); });
}

}  // namespace

Splitter make_splitter(const Json& json) {
    if (json.is_null()) return [](const Pieces& pieces) { return pieces; };
    const auto type = json.at("type").get<std::string>();
    if (type == "WhitespaceSplit") return for_each_piece(split_at_white);
    if (type == "Metaspace") return make_metaspace(json);
    if (type == "ByteLevel") return make_byte_level(json);
    if (type == "Split") return make_split(json);
    if (type != "Sequence") throw Unsupported("a pre-tokenizer " + type);
    std::vector<Splitter> steps;
    for (const Json& step : json.at("pretokenizers")) steps.push_back(make_splitter(step));
    return [steps](const Pieces& pieces) {
        Pieces parts = pieces;
        for (const Splitter& step : steps) parts = step(parts);
        return parts;
    };
}

}  // namespace soda
