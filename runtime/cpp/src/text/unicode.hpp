// Text as characters: UTF-8, classes of characters, lower case, canonical composition, graphemes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace soda {

// A character, and where what it comes from ends in the text as it was given: a number of characters.
struct Char {
    char32_t code;
    size_t end;
};

using Text = std::vector<Char>;

std::optional<Text> read_utf8(std::string_view bytes);  // none: not valid Unicode
Text ascii(std::string_view text);                      // with ends of 0
void append_utf8(char32_t code, std::string& bytes);
std::string to_utf8(const Text& text, size_t from = 0);

bool is_letter(char32_t code);  // \p{L}
bool is_number(char32_t code);  // \p{N}
bool is_white(char32_t code);   // White_Space

Text lower_case(const Text& text);                   // each character by itself
Text lower_case_with_final_sigma(const Text& text);  // as Unicode maps whole texts
Text compose(const Text& text);                      // NFC
// Where each extended grapheme cluster ends: [clusters], the last one text.size().
std::vector<size_t> grapheme_ends(const Text& text);

}  // namespace soda
