// Judge a request before anything changes: condition, noise and guidance that fit the bundle. BUNDLE.md section 8.
#pragma once

#include <string>
#include <vector>

#include "device_arrays.hpp"

namespace soda {

// What a request is conditioned on, row by row, the conditional half first: name of a request input -> its values.
struct Condition {
    int64_t samples = 0;
    std::map<std::string, std::vector<int64_t>> numbers;  // labels, input_ids, attention_mask
    std::vector<float> embeds;                            // empty where the text encoder makes them
    std::vector<DeviceRows> on_device;  // written over the rows above, which are zeros there, or empty if all are there
};

Condition judge_condition(const Manifest& manifest, const soda_request& request, const DeviceArrays& device);
double judge_guidance(const Manifest& manifest, const soda_request& request);
// Noise given by the caller is finite and whole.
void judge_noise(const Manifest& manifest, const soda_request& request, const DeviceArrays& device, int64_t samples);

// Embeddings and masks of one request, owned here.
struct Embeds {
    int64_t prompts = 0, negatives = 0;
    std::vector<float> values, negative_values;
    std::vector<int64_t> mask, negative_mask;
};

// The tensors prompt_embeds, prompt_attention_mask and both with `negative_` in front, of a safetensors file
// (embeds.cpp). Raises RequestError.
Embeds read_embeds(const std::string& path, const TextCondition& condition);

}  // namespace soda
