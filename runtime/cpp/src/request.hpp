// Judge a request before anything changes: ports, noise and guidance that fit the bundle. BUNDLE.md section 8.
#pragma once

#include <functional>

#include "request_inputs.hpp"

namespace soda {

// What a request gives, row by row, the conditional half first.
struct Condition {
    int64_t samples = 0;
    std::map<std::string, std::vector<char>> values;  // port -> its rows; no bytes where all of them are on the device
    std::vector<DeviceRows> on_device;                // written over the rows above
    std::vector<size_t> encoders;                     // that run: indices into `prepare`
};

// How many ids tokenizer `number` has; 0 where that is not known.
using Vocabulary = std::function<int64_t(size_t number)>;

// samples: how many the request asks for; 0 takes those of its inputs, or of the latents that it starts from.
Condition judge_condition(const Manifest& manifest, const std::vector<Given>& inputs, int64_t samples,
                          int64_t start_latents, const Vocabulary& vocabulary);
double judge_guidance(const Manifest& manifest, const soda_request& request);
// Noise given by the caller is finite and whole.
void judge_noise(const Manifest& manifest, const soda_request& request, const DeviceArrays& device, int64_t samples);

}  // namespace soda
