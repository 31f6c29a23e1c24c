// SentencePiece's table of replacements: a trie of UTF-8 in a double array (Aoe 1989), and the texts to put in place.
#include <cstring>

#include "steps.hpp"

namespace soda {
namespace {

std::string from_base64(const std::string& text) {
    std::string bytes;
    uint32_t bits = 0;
    int count = 0;
    for (const char each : text) {
        const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char* found = each == '=' || each == '\0' ? nullptr : std::strchr(digits, each);
        if (!found) continue;
        bits = bits << 6 | uint32_t(found - digits);
        if ((count += 6) < 8) continue;
        count -= 8;
        bytes += static_cast<char>(static_cast<unsigned char>(bits >> count & 0xFF));
    }
    return bytes;
}

class Replacements {
public:
    explicit Replacements(const std::string& base64) {
        const std::string bytes = from_base64(base64);
        uint32_t size = 0;
        if (bytes.size() >= 4) std::memcpy(&size, bytes.data(), 4);
        if (bytes.size() < 4 || size % 4 || size > bytes.size() - 4 || !size)
            throw Unsupported("a damaged table of replacements");
        units_.resize(size / 4);
        std::memcpy(units_.data(), bytes.data() + 4, size);
        texts_ = bytes.substr(4 + size);
    }

    // What stands for the shortest prefix of a text that the table has, in place of all of it; none: it stays. That
    // what follows the prefix is lost is how the tokenizers library has it.
    std::optional<std::string> of(const std::string& bytes) const {
        size_t node = step_of(units_[0]);
        for (const char each : bytes) {
            const auto label = static_cast<unsigned char>(each);
            if (label == 0) return {};
            node ^= label;
            if (node >= units_.size() || (units_[node] & 0x800000FFu) != label) return {};
            const uint32_t unit = units_[node];
            node ^= step_of(unit);
            if (node >= units_.size()) return {};
            if (unit >> 8 & 1) {
                const size_t begin = units_[node] & 0x7FFFFFFFu;
                return begin >= texts_.size() ? "" : std::string(texts_.c_str() + begin);
            }
        }
        return {};
    }

private:
    static size_t step_of(uint32_t unit) { return size_t(unit >> 10) << ((unit & 1u << 9) >> 6); }

    std::vector<uint32_t> units_;
    std::string texts_;
};

void append_replaced(const std::string& bytes, size_t end, Text& text) {
    const auto characters = read_utf8(bytes);
    if (!characters) throw Unsupported("a table of replacements that are not UTF-8");
    for (const Char& each : *characters) text.push_back({each.code, end});
}

}  // namespace

Normalizer make_precompiled(const std::string& base64) {
    constexpr size_t short_bytes = 6;  // clusters of fewer are looked up as a whole
    return [table = Replacements(base64)](const Text& text) {
        Text changed;
        size_t begin = 0;
        for (const size_t end : grapheme_ends(text)) {
            std::string cluster;
            for (size_t i = begin; i < end; ++i) append_utf8(text[i].code, cluster);
            const auto whole = cluster.size() < short_bytes ? table.of(cluster) : std::nullopt;
            if (whole) append_replaced(*whole, text[end - 1].end, changed);
            for (size_t i = begin; !whole && i < end; ++i) {
                std::string character;
                append_utf8(text[i].code, character);
                if (const auto found = table.of(character))
                    append_replaced(*found, text[i].end, changed);
                else
                    changed.push_back(text[i]);
            }
            begin = end;
        }
        return changed;
    };
}

}  // namespace soda
