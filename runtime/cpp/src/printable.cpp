#include "printable.hpp"

#include <cstdint>
#include <utility>

namespace soda {
namespace {

// Bytes of the character at `at`, with its number in `code`; 0 where there is none.
size_t decode(std::string_view text, size_t at, uint32_t& code) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};  // that needs so many bytes
    const auto first = static_cast<unsigned char>(text[at]);
    const size_t length =
        first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    if (length == 0 || at + length > text.size()) return 0;
    code = length == 1 ? first : first & (0xffu >> (length + 1));
    for (size_t k = 1; k < length; ++k) {
        const auto byte = static_cast<unsigned char>(text[at + k]);
        if ((byte & 0xc0) != 0x80) return 0;
        code = code << 6 | (byte & 0x3f);
    }
    const bool surrogate = code >= 0xd800 && code < 0xe000;
    return code < least[length] || code > 0x10ffff || surrogate ? 0 : length;
}

bool prints(uint32_t code) {
    static const std::pair<uint32_t, uint32_t> refused[] = {{0x00, 0x1f},     {0x7f, 0x9f},     {0x200e, 0x200f},
                                                            {0x2028, 0x202e}, {0x2066, 0x2069}};
    for (const auto& [first, last] : refused)
        if (code >= first && code <= last) return false;
    return true;
}

}  // namespace

bool is_printable(std::string_view text) {
    uint32_t code = 0;
    for (size_t at = 0, length; at < text.size(); at += length) {
        length = decode(text, at, code);
        if (length == 0 || !prints(code)) return false;
    }
    return true;
}

std::string printable(std::string_view text) {
    std::string result;
    uint32_t code = 0;
    for (size_t at = 0, length; at < text.size(); at += length ? length : 1) {
        length = decode(text, at, code);
        if (length && prints(code))
            result += text.substr(at, length);
        else
            result += length && code < 0x20 ? ' ' : '?';
    }
    return result;
}

}  // namespace soda
