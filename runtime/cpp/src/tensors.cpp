#include "tensors.hpp"

#include <algorithm>
#include <cstring>

#include "errors.hpp"
#include "files.hpp"
#include "strict_json.hpp"

namespace soda {
namespace {

constexpr int64_t max_header_bytes = 16 << 20;
constexpr int64_t end_of_numbers = int64_t(1) << 48;  // of sizes and offsets
constexpr size_t max_axes = 8;

BundleError damaged(const std::string& path, const std::string& reason) {
    return BundleError(say(path, ": ", reason, "; the file is damaged, copy or build the bundle again"));
}

int64_t item_bytes(const std::string& dtype) {
    static const std::map<std::string, int64_t> bytes = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8},
                                                         {"I32", 4}, {"I16", 2}, {"I8", 1},  {"U8", 1},   {"BOOL", 1}};
    const auto found = bytes.find(dtype);
    return found == bytes.end() ? 0 : found->second;
}

// A list of at most max_axes whole numbers in range, or false.
bool read_naturals(const Json& value, Sizes& numbers) {
    if (!value.is_array() || value.size() > max_axes) return false;
    for (const Json& item : value) {
        if (!item.is_number_unsigned() && !(item.is_number_integer() && item.get<int64_t>() >= 0)) return false;
        if (item.get<uint64_t>() >= uint64_t(end_of_numbers)) return false;
        numbers.push_back(item.get<int64_t>());
    }
    return true;
}

TensorEntry read_entry(const std::string& path, const std::string& name, const Json& entry, int64_t data_start) {
    const auto wrong = [&](const char* what) { return damaged(path, say("tensor ", shown(name), " has ", what)); };
    if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") || !entry.contains("shape") ||
        !entry.contains("data_offsets"))
        throw wrong("a malformed entry");
    if (!entry["dtype"].is_string()) throw wrong("a malformed type");
    const std::string dtype = entry["dtype"].get<std::string>();
    const int64_t item = item_bytes(dtype);
    if (item == 0) throw wrong("an unknown type");
    Sizes shape, range;
    if (!read_naturals(entry["shape"], shape) || !read_naturals(entry["data_offsets"], range) || range.size() != 2)
        throw wrong("a malformed shape or range");
    int64_t bytes = item;
    bool fits = true;
    for (int64_t side : shape) fits = fits && !__builtin_mul_overflow(bytes, side, &bytes);
    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) bytes = 0, fits = true;
    if (!fits || range[1] - range[0] != bytes) throw wrong("another number of bytes than its shape");
    return {dtype, shape, data_start + range[0], data_start + range[1]};
}

int64_t header_length(const std::string& path, std::string_view beginning, int64_t file_bytes) {
    uint64_t length = 0;
    for (size_t i = 0; i < 8 && i < beginning.size(); ++i) length |= uint64_t(uint8_t(beginning[i])) << (8 * i);
    if (beginning.size() < 8 || length > uint64_t(std::max<int64_t>(0, std::min(max_header_bytes, file_bytes - 8))))
        throw damaged(path, "the header is longer than the file");
    return int64_t(length);
}

Json header_json(const std::string& path, std::string_view beginning, int64_t length) {
    if (int64_t(beginning.size()) < 8 + length) throw damaged(path, "the header is longer than the file");
    Json header;
    try {
        header = parse_json(beginning.substr(8, size_t(length)));
    } catch (const StrictJsonError& error) {
        throw damaged(path, say("the header is ", error.what()));
    }
    if (!header.is_object()) throw damaged(path, "the header is not an object");
    return header;
}

}  // namespace

TensorEntries parse_header(const std::string& path, std::string_view beginning, int64_t file_bytes) {
    const int64_t length = header_length(path, beginning, file_bytes);
    const Json header = header_json(path, beginning, length);
    TensorEntries entries;
    for (const auto& item : header.items())
        if (item.key() != "__metadata__") entries[item.key()] = read_entry(path, item.key(), item.value(), 8 + length);
    std::vector<std::pair<const std::string, TensorEntry>*> in_order;
    for (auto& item : entries) in_order.push_back(&item);
    std::sort(in_order.begin(), in_order.end(), [](const auto* a, const auto* b) {
        return std::make_pair(a->second.begin, a->second.end) < std::make_pair(b->second.begin, b->second.end);
    });
    int64_t expected = 8 + length;
    for (const auto* item : in_order) {
        if (item->second.begin != expected)
            throw damaged(path, say("tensor ", shown(item->first), " overlaps another or leaves a hole"));
        expected = item->second.end;
    }
    if (expected != file_bytes) throw damaged(path, say(expected, " bytes are described, the file has ", file_bytes));
    return entries;
}

TensorEntries read_header(const std::string& path) {
    const int64_t file_bytes = stamp_of(path).bytes;
    const int64_t length = header_length(path, read_bytes(path, 0, 8), file_bytes);
    return parse_header(path, read_bytes(path, 0, 8 + length), file_bytes);
}

std::map<std::string, std::string> read_metadata(const std::string& path) {
    const int64_t length = header_length(path, read_bytes(path, 0, 8), stamp_of(path).bytes);
    const Json header = header_json(path, read_bytes(path, 0, 8 + length), length);
    std::map<std::string, std::string> metadata;
    const auto given = header.find("__metadata__");
    if (given == header.end() || !given->is_object()) return metadata;
    for (const auto& item : given->items())
        if (item.value().is_string()) metadata[item.key()] = item.value().get<std::string>();
    return metadata;
}

std::map<std::string, Table> read_tables(const std::string& path) {
    const std::string content = read_bytes(path, 0, stamp_of(path).bytes);
    std::map<std::string, Table> tables;
    for (const auto& [name, entry] : parse_header(path, content, int64_t(content.size()))) {
        if (entry.dtype != "F32")
            throw damaged(path, say("tensor ", shown(name), " has type ", entry.dtype, ", tables are F32"));
        Table& table = tables[name];
        table.shape = entry.shape;
        table.values.resize(size_t(entry.end - entry.begin) / 4);
        if (!table.values.empty())
            std::memcpy(table.values.data(), content.data() + entry.begin, size_t(entry.end - entry.begin));
    }
    return tables;
}

}  // namespace soda
