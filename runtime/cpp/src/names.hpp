// Names as a bundle may have them.
#pragma once

#include <string>

#include "manifest.hpp"

namespace soda {

// "transformer_blocks.3.attn#1"
bool is_slot_name(const std::string& name);
bool has_duplicates(const Names& names);
// A name that a file of a bundle may have.
bool is_plain_file(const std::string& name);
// Whether text is 1 .. `longest` characters: one of `first`, then any of `others`. Ranges are spelled out as "a-z".
bool matches(const std::string& text, const char* first, const char* others, size_t longest);

}  // namespace soda
