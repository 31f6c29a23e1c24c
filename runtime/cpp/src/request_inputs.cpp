#include "request_inputs.hpp"

#include <algorithm>

#include "errors.hpp"

namespace soda {
namespace {

const std::string negative_prefix = "negative_";

bool is_negative(const std::string& field) {
    return field.compare(0, negative_prefix.size(), negative_prefix) == 0;
}

template <class Fits>
const RequestPort* only_port(const Manifest& manifest, Fits fits) {
    const RequestPort* found = nullptr;
    for (const RequestPort& port : manifest.ports) {
        if (!fits(port)) continue;
        if (found) return nullptr;
        found = &port;
    }
    return found;
}

[[noreturn]] void refuse_field(const Manifest& manifest, const std::string& field) {
    const bool labels = std::all_of(manifest.ports.begin(), manifest.ports.end(), [](const RequestPort& port) {
        return port.kind == PortKind::label || port.kind == PortKind::scalar;
    });
    if (field == "labels") throw RequestError("this bundle takes no labels; soda_bundle_port lists what it takes");
    if (labels) throw RequestError("this bundle is conditioned on class labels; it takes no prompt and no embeddings");
    throw RequestError(say("'", field,
                           "' is not one port of this bundle; soda_bundle_port lists what it takes, to be "
                           "given by name in `inputs`"));
}

// A field of soda_request and how many rows it has.
struct RequestField {
    const char* name;
    const void* host;
    int32_t rows;
};

std::vector<RequestField> fields_of(const soda_request& request, const Embeds& file) {
    const auto data = [](const auto& values) -> const void* { return values.empty() ? nullptr : values.data(); };
    std::vector<RequestField> fields = {{"labels", request.labels, request.num_labels},
                                        {"token_ids", request.token_ids, request.num_prompts},
                                        {"negative_token_ids", request.negative_token_ids, request.num_negatives}};
    if (request.embeds_file) {
        const auto prompts = int32_t(file.prompts), negatives = int32_t(file.negatives);
        fields.push_back({"embeds", data(file.values), prompts});
        fields.push_back({"token_mask", data(file.mask), prompts});
        fields.push_back({"negative_embeds", data(file.negative_values), negatives});
        fields.push_back({"negative_token_mask", data(file.negative_mask), negatives});
        return fields;
    }
    fields.push_back({"embeds", request.embeds, request.num_prompts});
    fields.push_back({"token_mask", request.token_mask, request.num_prompts});
    fields.push_back({"negative_embeds", request.negative_embeds, request.num_negatives});
    fields.push_back({"negative_token_mask", request.negative_token_mask, request.num_negatives});
    return fields;
}

Embeds read_file(const Manifest& manifest, const soda_request& request, const DeviceArrays& device) {
    for (const char* name : {"embeds", "token_mask", "negative_embeds", "negative_token_mask"})
        if (device.count(name))
            throw RequestError("embeds_file has all embeddings and masks; give none of them on the device");
    if (request.embeds || request.token_ids) throw RequestError("give one of embeds, embeds_file and token_ids");
    const RequestPort* port = port_of_field(manifest, "embeds");
    if (!port) refuse_field(manifest, "embeds");
    if (port->shape.size() != 2)
        throw RequestError(say("embeds_file has embeddings of tokens, port '", port->name,
                               "' takes others; give them "
                               "in `inputs`"));
    return read_embeds(request.embeds_file, port->shape[0], port->shape[1]);
}

Given read_input(const Manifest& manifest, const soda_input& input) {
    const std::string name = input.name;
    const RequestPort* port = find_port(manifest, name);
    if (!port)
        throw RequestError(say("input ", shown(name), " is no port of this bundle; soda_bundle_port lists them"));
    const auto* data = static_cast<const char*>(input.data);
    return {port,
            input.negative != 0,
            (input.negative ? "the negative of " : "") + name,
            input.on_device ? nullptr : data,
            input.on_device ? data : nullptr,
            input.rows,
            int64_t(std::min(input.bytes, size_t(INT64_MAX)))};
}

}  // namespace

const RequestPort* port_of_field(const Manifest& manifest, const std::string& field) {
    return only_port(manifest, [&](const RequestPort& port) {
        switch (port.kind) {
            case PortKind::label:
                return field == "labels";
            case PortKind::token_ids:
                return field == "token_ids";
            case PortKind::token_mask:
            case PortKind::mask:
                return field == "token_mask";
            case PortKind::embedding:
                return field == "embeds" && port.shape.size() > 1;  // others are pooled
            default:
                return false;
        }
    });
}

std::string field_of_port(const Manifest& manifest, const RequestPort& port) {
    for (const char* field : {"labels", "embeds", "token_ids", "token_mask"})
        if (port_of_field(manifest, field) == &port) return field;
    return "";
}

std::vector<Given> list_inputs(const Manifest& manifest, const soda_request& request, const RequestArrays& arrays,
                               Embeds& file) {
    if (request.num_labels < 0 || request.num_prompts < 0 || request.num_negatives < 0)
        throw RequestError("a negative count of labels or prompts", SODA_REQUEST_ARGUMENT);
    if (request.embeds_file) file = read_file(manifest, request, arrays.device);
    std::vector<Given> inputs;
    for (const RequestField& field : fields_of(request, file)) {
        const auto array = arrays.device.find(field.name);
        const bool on_device = array != arrays.device.end();
        if (!field.host && !on_device) continue;
        const bool negative = is_negative(field.name), tokens = std::string(field.name) == "negative_token_ids";
        if (negative && !tokens && manifest.rows_per_sample == 1) continue;  // embeddings come with them anyway
        const RequestPort* port = port_of_field(manifest, field.name + (negative ? negative_prefix.size() : 0));
        if (!port) refuse_field(manifest, field.name);
        Given given{port, negative, field.name, static_cast<const char*>(field.host), nullptr, field.rows, {}};
        if (on_device) given.device = array->second.address, given.bytes = array->second.bytes;
        inputs.push_back(given);
    }
    for (const soda_input& input : arrays.inputs) inputs.push_back(read_input(manifest, input));
    return inputs;
}

}  // namespace soda
