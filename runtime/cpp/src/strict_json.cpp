// See strict_json.hpp. The parser is nlohmann's; its events are checked before they become values.
#include "strict_json.hpp"

#include <cmath>
#include <limits>
#include <set>

#include "errors.hpp"
#include "printable.hpp"

namespace soda {
namespace {

constexpr size_t max_depth = 512;
constexpr double max_float = 3.0e38;

// Builds values from the parser's events and refuses a key that stands twice in one object.
class Builder : public nlohmann::json_sax<Json> {
public:
    explicit Builder(Json& root) : root_(root) {}

    bool null() override { return put(nullptr); }
    bool boolean(bool value) override { return put(value); }
    bool number_integer(number_integer_t value) override { return put(value); }
    bool number_unsigned(number_unsigned_t value) override { return put(value); }
    bool number_float(number_float_t value, const string_t&) override { return put(value); }
    bool string(string_t& value) override { return put(std::move(value)); }
    bool binary(binary_t&) override { return false; }
    bool start_object(size_t) override { return open(Json::object()); }
    bool start_array(size_t) override { return open(Json::array()); }
    bool end_object() override { return close(); }
    bool end_array() override { return close(); }

    bool key(string_t& name) override {
        if (stack_.back()->contains(name))
            throw StrictJsonError(say("key ", shown(name, 60), " appears twice in one object"));
        key_ = std::move(name);
        return true;
    }

    bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
        const bool number = std::string_view(error.what()).find("out_of_range") != std::string_view::npos;
        throw StrictJsonError(
            say("not valid JSON (", number ? "a number out of range" : "malformed", " at byte ", position, ")"));
    }

private:
    Json* place(Json value) {
        if (stack_.empty()) return &(root_ = std::move(value));
        Json& parent = *stack_.back();
        if (parent.is_array()) {
            parent.push_back(std::move(value));
            return &parent.back();
        }
        return &(parent[key_] = std::move(value));
    }

    bool put(Json value) {
        place(std::move(value));
        return true;
    }

    bool open(Json value) {
        if (stack_.size() >= max_depth) throw StrictJsonError("nested too deeply");
        stack_.push_back(place(std::move(value)));
        return true;
    }

    bool close() {
        stack_.pop_back();
        return true;
    }

    Json& root_;
    std::vector<Json*> stack_;  // a container does not move while it is the innermost one
    std::string key_;
};

const char* type_of(const Json& value) {
    if (value.is_object()) return "an object";
    if (value.is_array()) return "an array";
    if (value.is_string()) return "a string";
    if (value.is_boolean()) return "a bool";
    if (value.is_null()) return "null";
    return value.is_number_float() ? "a fraction or a number beyond 64 bits" : "an int";
}

}  // namespace

Json parse_json(std::string_view text) {
    if (text.substr(0, 3) == "\xef\xbb\xbf") throw StrictJsonError("not valid JSON (a byte order mark)");
    if (text.find('\0') != text.npos)  // where nlohmann's parser would see the end
        throw StrictJsonError(say("not valid JSON (a NUL at byte ", text.find('\0'), ")"));
    Json root;
    Builder builder(root);
    Json::sax_parse(text.begin(), text.end(), &builder);
    return root;
}

const Field& Field::object(std::initializer_list<const char*> keys) const {
    if (!value_.is_object()) expected("an object");
    const std::set<std::string_view> known(keys.begin(), keys.end());
    for (const auto& item : value_.items())
        if (known.count(item.key()) == 0) throw StrictJsonError(say(where_, ": unknown key ", shown(item.key())));
    for (const char* key : keys)
        if (!value_.contains(key)) throw StrictJsonError(say(where_, ": missing key '", key, "'"));
    return *this;
}

Field Field::operator[](const char* key) const {
    return Field(value_.at(key), where_ + "." + key);
}

std::string Field::string() const {
    if (!value_.is_string()) expected("a string");
    return value_.get<std::string>();
}

std::string Field::one_of(std::initializer_list<const char*> choices) const {
    std::string list;
    for (const char* choice : choices) {
        if (value_.is_string() && value_.get_ref<const std::string&>() == choice) return choice;
        list += say(list.empty() ? "" : ", ", "'", choice, "'");
    }
    throw StrictJsonError(say(where_, ": expected one of ", list, ", found ", brief(value_)));
}

bool Field::boolean() const {
    if (!value_.is_boolean()) expected("a bool");
    return value_.get<bool>();
}

int64_t Field::integer() const {
    if (!value_.is_number_integer()) expected("an int");
    if (value_.is_number_unsigned() && value_.get<uint64_t>() > uint64_t(std::numeric_limits<int64_t>::max()))
        expected("an int of 64 bits");
    return value_.get<int64_t>();
}

double Field::number() const {
    if (!value_.is_number()) expected("a number");
    const double number = value_.get<double>();
    if (!(std::abs(number) <= max_float)) expected("a number within float32");
    return number;
}

std::vector<Field> Field::array() const {
    if (!value_.is_array()) expected("an array");
    std::vector<Field> fields;
    fields.reserve(value_.size());
    for (size_t i = 0; i < value_.size(); ++i) fields.emplace_back(value_[i], say(where_, "[", i, "]"));
    return fields;
}

std::vector<Field> Field::array(size_t length) const {
    auto fields = array();
    if (fields.size() != length)
        throw StrictJsonError(say(where_, ": expected ", length, " entries, found ", fields.size()));
    return fields;
}

std::vector<std::pair<std::string, Field>> Field::entries() const {
    if (!value_.is_object()) expected("an object");
    std::vector<std::pair<std::string, Field>> fields;
    for (const auto& item : value_.items())
        fields.emplace_back(item.key(), Field(item.value(), say(where_, "[", shown(item.key(), 60), "]")));
    return fields;
}

std::vector<std::string> Field::strings() const {
    std::vector<std::string> values;
    for (const Field& field : array()) values.push_back(field.string());
    return values;
}

std::vector<int64_t> Field::integers() const {
    std::vector<int64_t> values;
    for (const Field& field : array()) values.push_back(field.integer());
    return values;
}

std::vector<int64_t> Field::integers(size_t length) const {
    array(length);
    return integers();
}

void Field::expected(const char* what) const {
    throw StrictJsonError(say(where_, ": expected ", what, ", found ", type_of(value_)));
}

void require_printable(const Json& value) {
    const auto demand = [](const std::string& text) {
        if (!is_printable(text)) throw StrictJsonError(say(shown(text, 60), " has control characters"));
    };
    if (value.is_string()) demand(value.get_ref<const std::string&>());
    if (!value.is_structured()) return;
    for (const auto& item : value.items()) {
        if (value.is_object()) demand(item.key());
        require_printable(item.value());
    }
}

std::string brief(const Json& value) {
    if (value.is_string()) return shown(value.get_ref<const std::string&>(), 60);
    return value.is_structured() || value.is_null() ? type_of(value) : value.dump().substr(0, 60);
}

}  // namespace soda
