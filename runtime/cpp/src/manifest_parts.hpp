// Parts of a manifest that all format versions spell the same way. Functions of one JSON field each.
#pragma once

#include "manifest.hpp"
#include "strict_json.hpp"

namespace soda {

Step decode_step(const Field& field);
Arena decode_arena(const Field& field);
std::map<std::string, FileEntry> decode_files(const Field& field);

template <class Decode>
auto decode_each(const Field& field, Decode decode) {
    std::vector<decltype(decode(field))> parts;
    for (const Field& each : field.array()) parts.push_back(decode(each));
    return parts;
}

// A manifest of version 1 in the terms of the current one.
Manifest upgrade_v1(const Field& root);

}  // namespace soda
