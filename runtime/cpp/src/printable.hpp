// Text that may be printed: what comes out of a bundle must not steer a terminal.
#pragma once

#include <string>
#include <string_view>

namespace soda {

// Whether UTF-8 text has no control characters, breaks of lines or changes of direction.
bool is_printable(std::string_view text);

// Text with '?' in the place of such characters and of bytes that are no UTF-8; a space in that of those below U+0020.
std::string printable(std::string_view text);

}  // namespace soda
