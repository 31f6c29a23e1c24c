// A reader of Protocol Buffers' wire format, for the few fields of onnx.proto that say where weights are.
#include "onnx_initializers.hpp"

#include <map>
#include <optional>

namespace soda {
namespace {

// Field numbers of onnx.proto.
constexpr uint64_t model_graph = 7, graph_initializer = 5;
constexpr uint64_t tensor_dims = 1, tensor_data_type = 2, tensor_name = 8, tensor_external_data = 13,
                   tensor_location = 14;
constexpr uint64_t entry_key = 1, entry_value = 2;
constexpr uint64_t location_external = 1;

struct FieldValue {
    uint64_t number;         // of the field
    uint64_t varint = 0;     // of a field of wire type 0
    std::string_view bytes;  // of a field of wire type 2
    bool is_bytes = false;
};

// Fields of one message, one after the other.
class Fields {
public:
    explicit Fields(std::string_view message) : rest_(message) {}

    // The next field; none at the end, and where what follows is none.
    std::optional<FieldValue> next() {
        if (rest_.empty()) return {};
        auto field = read();
        malformed_ = !field;
        return field;
    }

    bool malformed() const { return malformed_; }

    std::optional<uint64_t> varint() {
        uint64_t value = 0;
        for (int shift = 0; shift < 70 && !rest_.empty(); shift += 7) {
            const auto byte = static_cast<unsigned char>(rest_[0]);
            rest_.remove_prefix(1);
            if (shift < 64) value |= uint64_t(byte & 0x7f) << shift;
            if (byte < 0x80) return value;
        }
        return {};
    }

private:
    std::optional<FieldValue> read() {
        const auto tag = varint();
        if (!tag) return {};
        FieldValue field{*tag >> 3, 0, {}, false};
        switch (*tag & 7) {
            case 0: {
                const auto value = varint();
                if (!value) return {};
                field.varint = *value;
                return field;
            }
            case 1:
                return skip(8) ? std::optional(field) : std::nullopt;
            case 5:
                return skip(4) ? std::optional(field) : std::nullopt;
            case 2: {
                const auto length = varint();
                if (!length || *length > rest_.size()) return {};
                field.bytes = rest_.substr(0, size_t(*length));
                field.is_bytes = true;
                skip(size_t(*length));
                return field;
            }
            default:
                return {};
        }
    }

    bool skip(size_t bytes) {
        if (bytes > rest_.size()) return false;
        rest_.remove_prefix(bytes);
        return true;
    }

    std::string_view rest_;
    bool malformed_ = false;
};

void read_entry(std::string_view message, ExternalInitializer& tensor) {
    std::string key, value;
    Fields fields(message);
    while (const auto field = fields.next()) {
        if (field->number == entry_key) key = field->bytes;
        if (field->number == entry_value) value = field->bytes;
    }
    if (key == "location") tensor.file = value;
}

std::optional<ExternalInitializer> read_tensor(std::string_view message) {
    ExternalInitializer tensor;
    bool external = false;
    Fields fields(message);
    while (const auto field = fields.next()) {
        if (field->number == tensor_dims && field->is_bytes) {
            Fields packed(field->bytes);
            while (const auto side = packed.varint()) tensor.dims.push_back(int64_t(*side));
        } else if (field->number == tensor_dims) {
            tensor.dims.push_back(int64_t(field->varint));
        }
        if (field->number == tensor_data_type) tensor.data_type = int32_t(field->varint);
        if (field->number == tensor_name) tensor.name = field->bytes;
        if (field->number == tensor_external_data) read_entry(field->bytes, tensor);
        if (field->number == tensor_location) external = field->varint == location_external;
    }
    return external ? std::optional(tensor) : std::nullopt;
}

// Kinds of messages that may have tensors below them.
enum class Part { model, training, graph, function, node, attribute, sparse, tensor, none };

Part part_of(Part parent, uint64_t field) {
    static const std::map<std::pair<Part, uint64_t>, Part> parts = {
        {{Part::model, 7}, Part::graph},          {{Part::model, 20}, Part::training},
        {{Part::model, 25}, Part::function},      {{Part::training, 1}, Part::graph},
        {{Part::training, 2}, Part::graph},       {{Part::graph, 1}, Part::node},
        {{Part::graph, 5}, Part::tensor},         {{Part::graph, 15}, Part::sparse},
        {{Part::function, 7}, Part::node},        {{Part::function, 11}, Part::attribute},
        {{Part::node, 5}, Part::attribute},       {{Part::attribute, 5}, Part::tensor},
        {{Part::attribute, 6}, Part::graph},      {{Part::attribute, 10}, Part::tensor},
        {{Part::attribute, 11}, Part::graph},     {{Part::attribute, 22}, Part::sparse},
        {{Part::attribute, 23}, Part::sparse},    {{Part::sparse, 1}, Part::tensor},
        {{Part::sparse, 2}, Part::tensor},
    };
    const auto found = parts.find({parent, field});
    return found == parts.end() ? Part::none : found->second;
}

constexpr int max_part_depth = 64;  // protobuf's own limit is 100

// The location that an entry of a tensor's external data gives.
bool find_location(std::string_view entry, std::set<std::string>& locations) {
    std::vector<std::string> keys, values;
    Fields fields(entry);
    while (const auto field = fields.next()) {
        if (field->is_bytes && field->number == entry_key) keys.emplace_back(field->bytes);
        if (field->is_bytes && field->number == entry_value) values.emplace_back(field->bytes);
    }
    if (fields.malformed() || keys.size() != 1) return false;
    if (keys[0] != "location") return true;
    if (values.size() == 1) locations.insert(values[0]);
    return values.size() == 1;
}

bool find_locations(std::string_view message, Part part, int depth, std::set<std::string>& locations) {
    if (depth > max_part_depth) return false;
    // a string's bytes stand in all messages around it: few parts are walked
    if (message.find("location") == std::string_view::npos) return true;
    Fields fields(message);
    while (const auto field = fields.next()) {
        if (!field->is_bytes) continue;
        if (part == Part::tensor) {
            if (field->number == tensor_external_data && !find_location(field->bytes, locations)) return false;
            continue;
        }
        const Part inner = part_of(part, field->number);
        if (inner != Part::none && !find_locations(field->bytes, inner, depth + 1, locations)) return false;
    }
    return !fields.malformed();
}

}  // namespace

bool find_external_locations(std::string_view model, std::set<std::string>& locations) {
    return find_locations(model, Part::model, 0, locations);
}

std::vector<ExternalInitializer> list_external_initializers(std::string_view model) {
    std::vector<ExternalInitializer> tensors;
    Fields fields(model);
    while (const auto field = fields.next()) {
        if (field->number != model_graph || !field->is_bytes) continue;
        Fields graph(field->bytes);
        while (const auto part = graph.next()) {
            if (part->number != graph_initializer) continue;
            if (auto tensor = read_tensor(part->bytes)) tensors.push_back(std::move(*tensor));
        }
    }
    return tensors;
}

}  // namespace soda
