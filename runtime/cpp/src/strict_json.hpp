// JSON text into values, and values into fields: duplicate, unknown and missing keys and wrong types are refused.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace soda {

using Json = nlohmann::json;

// The text is not the JSON that is asked for; the message names the place.
struct StrictJsonError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Parse standard JSON in UTF-8 without a byte order mark: no NaN, no duplicate keys, at most 512 levels.
Json parse_json(std::string_view text);

// A value of parsed JSON and its place, as a path from `$`. The value must outlive the field.
class Field {
public:
    explicit Field(const Json& value, std::string where = "$") : value_(value), where_(std::move(where)) {}

    // Demand an object with exactly these keys.
    const Field& object(std::initializer_list<const char*> keys) const;
    Field operator[](const char* key) const;

    std::string string() const;
    std::string one_of(std::initializer_list<const char*> choices) const;
    bool boolean() const;
    int64_t integer() const;
    double number() const;  // finite as binary32
    std::vector<Field> array() const;
    std::vector<Field> array(size_t length) const;
    std::vector<std::pair<std::string, Field>> entries() const;  // of an object with any keys
    std::vector<std::string> strings() const;
    std::vector<int64_t> integers() const;
    std::vector<int64_t> integers(size_t length) const;

    const Json& json() const { return value_; }
    const std::string& where() const { return where_; }

private:
    [[noreturn]] void expected(const char* what) const;

    const Json& value_;
    std::string where_;
};

// Refuse control characters in all strings and keys, at any depth.
void require_printable(const Json& value);

// A value for a message: arrays and objects by type alone.
std::string brief(const Json& value);

}  // namespace soda
