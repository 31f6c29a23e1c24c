#include "names.hpp"

#include <algorithm>
#include <set>

namespace soda {

bool has_duplicates(const Names& names) {
    return std::set<std::string>(names.begin(), names.end()).size() != names.size();
}

bool is_plain_file(const std::string& name) {
    return matches(name, "A-Za-z0-9", "A-Za-z0-9._-", 100) && name.find("..") == std::string::npos;
}

bool matches(const std::string& text, const char* first, const char* others, size_t longest) {
    const auto is_in = [](unsigned char c, const char* set) {
        for (; *set; ++set) {
            if (set[1] == '-' && set[2]) {
                if (c >= static_cast<unsigned char>(set[0]) && c <= static_cast<unsigned char>(set[2])) return true;
                set += 2;
            } else if (c == static_cast<unsigned char>(*set)) {
                return true;
            }
        }
        return false;
    };
    if (text.empty() || text.size() > longest || !is_in(text[0], first)) return false;
    return std::all_of(text.begin() + 1, text.end(), [&](unsigned char c) { return is_in(c, others); });
}

bool is_slot_name(const std::string& name) {
    const size_t end = name.find('#');
    const bool plain = matches(name.substr(0, end), "a-z0-9_", "a-z0-9_.", 96);
    return plain && (end == std::string::npos || matches(name.substr(end + 1), "1-9", "", 1));
}

}  // namespace soda
