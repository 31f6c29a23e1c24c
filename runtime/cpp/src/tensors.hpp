// The safetensors format: every number of the header is checked before it is used. BUNDLE.md section 9.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace soda {

struct TensorEntry {
    std::string dtype;
    Sizes shape;
    int64_t begin, end;  // bytes from the start of the file, end exclusive
};

using TensorEntries = std::map<std::string, TensorEntry>;

// The checked header of a safetensors file, given its first bytes (all of the header, or more) and its whole size.
TensorEntries parse_header(const std::string& path, std::string_view beginning, int64_t file_bytes);
TensorEntries read_header(const std::string& path);
// The strings that a file says of itself.
std::map<std::string, std::string> read_metadata(const std::string& path);

struct Table {
    Sizes shape;
    std::vector<float> values;

    int64_t row_bytes() const { return shape[0] ? int64_t(values.size()) / shape[0] * 4 : 0; }
};

// All tensors of a small file, which must be float32.
std::map<std::string, Table> read_tables(const std::string& path);

}  // namespace soda
