#include "unicode.hpp"

#include <algorithm>
#include <iterator>

namespace soda {
namespace {

struct Range {
    char32_t first, last;
};
struct Shift {  // every `step`-th of first .. last moves by `by`
    char32_t first, last;
    int32_t step, by;
};
struct Triple {
    char32_t a, b, c;
};
struct Decomposition {
    char32_t code, parts[4];
};
struct Ranked {
    char32_t first, last;
    int32_t rank;
};

#include "unicode_tables.inc"

constexpr char32_t hangul = 0xAC00, leading = 0x1100, vowel = 0x1161, trailing = 0x11A7;
constexpr uint32_t num_vowels = 21, num_trailing = 28, num_leading = 19;
constexpr uint32_t num_hangul = num_leading * num_vowels * num_trailing;
constexpr char32_t sigma = 0x3A3, small_sigma = 0x3C3, final_sigma = 0x3C2;

// The range of a sorted table that holds a character, or null.
template <class Entry, size_t count>
const Entry* range_of(const Entry (&ranges)[count], char32_t code) {
    const Entry* next = std::upper_bound(std::begin(ranges), std::end(ranges), code,
                                         [](char32_t wanted, const Entry& range) { return wanted < range.first; });
    return next == std::begin(ranges) || code > (next - 1)->last ? nullptr : next - 1;
}

void append_lower(const Char& each, Text& text) {
    if (const Shift* shift = range_of(lower_shifts, each.code)) {
        if ((each.code - shift->first) % uint32_t(shift->step) == 0)
            return text.push_back({char32_t(int32_t(each.code) + shift->by), each.end});
    }
    for (const Triple& pair : lower_pairs)
        if (pair.a == each.code) {
            text.push_back({pair.b, each.end});
            return text.push_back({pair.c, each.end});
        }
    text.push_back(each);
}

void append_decomposed(const Char& each, Text& text) {
    if (each.code >= hangul && each.code < hangul + num_hangul) {
        const uint32_t index = each.code - hangul, last = index % num_trailing;
        text.push_back({leading + index / (num_vowels * num_trailing), each.end});
        text.push_back({vowel + index / num_trailing % num_vowels, each.end});
        if (last) text.push_back({trailing + last, each.end});
        return;
    }
    const auto* found = std::lower_bound(
        std::begin(decompositions), std::end(decompositions), each.code,
        [](const Decomposition& entry, char32_t wanted) { return entry.code < wanted; });
    if (found == std::end(decompositions) || found->code != each.code) return text.push_back(each);
    for (const char32_t part : found->parts)
        if (part) text.push_back({part, each.end});
}

int32_t combining_class(char32_t code) {
    for (const Ranked& ranked : combining_classes)
        if (code >= ranked.first && code <= ranked.last) return ranked.rank;
    return 0;
}

// What two characters compose to, 0 for nothing.
char32_t composed(char32_t first, char32_t second) {
    if (first >= leading && first < leading + num_leading && second >= vowel && second < vowel + num_vowels)
        return hangul + ((first - leading) * num_vowels + (second - vowel)) * num_trailing;
    const bool open = first >= hangul && first < hangul + num_hangul && (first - hangul) % num_trailing == 0;
    if (open && second > trailing && second < trailing + num_trailing) return first + (second - trailing);
    const auto before = [](const Triple& entry, const Triple& wanted) {
        return entry.a != wanted.a ? entry.a < wanted.a : entry.b < wanted.b;
    };
    const Triple wanted{first, second, 0};
    const auto* found = std::lower_bound(std::begin(compositions), std::end(compositions), wanted, before);
    return found == std::end(compositions) || before(wanted, *found) ? 0 : found->c;
}

// Whether a cased character is next in a direction, case-ignorable ones left out.
template <class Iterator>
bool meets_cased(Iterator from, Iterator end) {
    while (from != end && range_of(case_ignorable_ranges, from->code)) ++from;
    return from != end && range_of(cased_ranges, from->code);
}

bool is_jamo(char32_t code) {
    return code >= 0x1160 && code <= 0x11FF;
}

bool joins(char32_t before, char32_t code) {
    if (before == '\r' && code == '\n') return true;
    if (range_of(control_ranges, before) || range_of(control_ranges, code)) return false;
    if (range_of(extending_ranges, code) || range_of(prepended_ranges, before)) return true;
    return is_jamo(code) && (before >= leading && before <= 0x11FF ? true : before >= hangul && before <= 0xD7A3);
}

}  // namespace

std::optional<Text> read_utf8(std::string_view bytes) {
    Text text;
    for (size_t i = 0; i < bytes.size();) {
        const auto first = static_cast<unsigned char>(bytes[i]);
        const size_t length = first < 0x80   ? 1
                              : first < 0xC2 ? 0
                              : first < 0xE0 ? 2
                              : first < 0xF0 ? 3
                              : first < 0xF5 ? 4
                                             : 0;
        if (!length || i + length > bytes.size()) return {};
        char32_t code = length == 1 ? first : first & (0x7F >> length);
        for (size_t k = 1; k < length; ++k) {
            const auto next = static_cast<unsigned char>(bytes[i + k]);
            if ((next & 0xC0) != 0x80) return {};
            code = code << 6 | (next & 0x3F);
        }
        const char32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        if (code < least[length] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return {};
        text.push_back({code, text.size() + 1});
        i += length;
    }
    return text;
}

Text ascii(std::string_view bytes) {
    Text text;
    for (const char each : bytes) text.push_back({char32_t(static_cast<unsigned char>(each)), 0});
    return text;
}

void append_utf8(char32_t code, std::string& bytes) {
    const auto add = [&](uint32_t byte) { bytes += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) return add(code);
    if (code < 0x800) return add(0xC0 | code >> 6), add(0x80 | (code & 0x3F));
    if (code < 0x10000) return add(0xE0 | code >> 12), add(0x80 | (code >> 6 & 0x3F)), add(0x80 | (code & 0x3F));
    add(0xF0 | code >> 18), add(0x80 | (code >> 12 & 0x3F)), add(0x80 | (code >> 6 & 0x3F)), add(0x80 | (code & 0x3F));
}

std::string to_utf8(const Text& text, size_t from) {
    std::string bytes;
    for (size_t i = from; i < text.size(); ++i) append_utf8(text[i].code, bytes);
    return bytes;
}

bool is_letter(char32_t code) {
    return range_of(letter_ranges, code);
}

bool is_number(char32_t code) {
    return range_of(number_ranges, code);
}

bool is_white(char32_t code) {
    return range_of(white_ranges, code);
}

Text lower_case(const Text& text) {
    Text lower;
    for (const Char& each : text) append_lower(each, lower);
    return lower;
}

Text lower_case_with_final_sigma(const Text& text) {
    Text lower;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i].code != sigma) {
            append_lower(text[i], lower);
            continue;
        }
        const bool ends = meets_cased(text.rbegin() + ptrdiff_t(text.size() - i), text.rend()) &&
                          !meets_cased(text.begin() + ptrdiff_t(i) + 1, text.end());
        lower.push_back({ends ? final_sigma : small_sigma, text[i].end});
    }
    return lower;
}

Text compose(const Text& text) {
    Text apart, whole;
    for (const Char& each : text) append_decomposed(each, apart);
    for (auto begin = apart.begin(); begin != apart.end();) {  // marks on one character in the order of their class
        const auto is_mark = [](const Char& each) { return combining_class(each.code) != 0; };
        const auto marks = std::find_if(begin, apart.end(), is_mark);
        begin = std::find_if_not(marks, apart.end(), is_mark);
        std::stable_sort(marks, begin, [](const Char& a, const Char& b) {
            return combining_class(a.code) < combining_class(b.code);
        });
    }
    std::optional<size_t> starter;
    int32_t latest = 0;  // class of the last character that was kept after the starter
    for (const Char& each : apart) {
        const int32_t own = combining_class(each.code);
        const bool next_to = starter && *starter + 1 == whole.size();
        const char32_t both = starter && (next_to || latest < own) ? composed(whole[*starter].code, each.code) : 0;
        if (both) {
            whole[*starter] = {both, std::max(whole[*starter].end, each.end)};
            continue;
        }
        if (own == 0) starter = whole.size();
        latest = own;
        whole.push_back(each);
    }
    return whole;
}

std::vector<size_t> grapheme_ends(const Text& text) {
    std::vector<size_t> ends;
    for (size_t i = 1; i < text.size(); ++i)
        if (!joins(text[i - 1].code, text[i].code)) ends.push_back(i);
    if (!text.empty()) ends.push_back(text.size());
    return ends;
}

}  // namespace soda
