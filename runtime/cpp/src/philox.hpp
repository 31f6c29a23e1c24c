// Counter-based Gaussian noise: (seed, stream, row, element) alone decide each float. BUNDLE.md section 11.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace soda {

constexpr uint32_t initial_stream = 0;  // the noise of step i is stream 1 + i

using Words4 = std::array<uint32_t, 4>;

Words4 philox4x32(Words4 counter, uint32_t key0, uint32_t key1);
// `count` standard normal values of one row of a batch.
void normal(uint64_t seed, uint32_t stream, uint32_t row, float* values, size_t count);
// Noise of one stream for a whole batch: rows of `count` values.
void latent_noise(uint64_t seed, uint32_t stream, size_t batch, size_t count, float* values);

}  // namespace soda
