// The inputs of a request, one by one: fields of soda_request, inputs by name, arrays on the device, a file.
#pragma once

#include <optional>

#include "device_arrays.hpp"

namespace soda {

// Arrays that a request brings beside its fields.
struct RequestArrays {
    DeviceArrays device;             // in the place of fields
    std::vector<soda_input> inputs;  // of ports by name; neither names nor data are null
};

// Values of one port, of the conditional or the unconditional rows.
struct Given {
    const RequestPort* port;
    bool negative;
    std::string name;  // as the request calls it
    const char* host;  // this one or the next
    const char* device;
    int64_t rows;                  // one for all samples, or one for each
    std::optional<int64_t> bytes;  // there; not known of a field of soda_request
};

// The port that a field of soda_request stands for, without "negative_": that of its kind (an embedding of more than
// one axis) where there is only one. Null where there is none, or no such field.
const RequestPort* port_of_field(const Manifest& manifest, const std::string& field);
// The field that stands for a port, or "".
std::string field_of_port(const Manifest& manifest, const RequestPort& port);

// Embeddings and masks of one request, owned here.
struct Embeds {
    int64_t prompts = 0, negatives = 0;
    std::vector<float> values, negative_values;
    std::vector<int64_t> mask, negative_mask;
};

// The tensors prompt_embeds, prompt_attention_mask and both with `negative_` in front, of a safetensors file of
// embeddings [samples, tokens, width] (embeds.cpp). Raises RequestError.
Embeds read_embeds(const std::string& path, int64_t tokens, int64_t width);

// All inputs of the request but noise. file: filled where the request names one, and kept as long as the inputs.
std::vector<Given> list_inputs(const Manifest& manifest, const soda_request& request, const RequestArrays& arrays,
                               Embeds& file);

}  // namespace soda
