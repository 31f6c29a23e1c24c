#include "vocabulary.hpp"

#include <algorithm>

#include "files.hpp"
#include "strict_json.hpp"

namespace soda {
namespace {

// A member of an object; null where there is none.
Json get(const Json& value, const char* key) {
    return value.is_object() && value.contains(key) ? value[key] : Json();
}

constexpr int64_t end_of_ids = int64_t(1) << 32;  // ids are 32 bits wide in every tokenizer; a number beyond is none

int64_t id_of(const Json& value) {
    return value.is_number_unsigned() && value.get<uint64_t>() < uint64_t(end_of_ids) ? value.get<int64_t>() : -1;
}

}  // namespace

int64_t vocabulary_size(const std::string& path) {
    Json content;
    try {
        content = parse_json(read_bytes(path, 0, stamp_of(path).bytes));
    } catch (const StrictJsonError&) {
        return 0;
    }
    const Json vocabulary = get(get(content, "model"), "vocab"), added = get(content, "added_tokens");
    int64_t greatest = -1;
    if (vocabulary.is_object())
        for (const auto& item : vocabulary.items()) greatest = std::max(greatest, id_of(item.value()));
    if (vocabulary.is_array())  // of Unigram: pieces in the order of their ids
        greatest = int64_t(vocabulary.size()) - 1;
    if (added.is_array())
        for (const Json& token : added) greatest = std::max(greatest, id_of(get(token, "id")));
    return greatest + 1;
}

}  // namespace soda
