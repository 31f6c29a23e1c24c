// Philox4x32-10 (Salmon et al., SC 2011) and Box-Muller in binary64, rounded once. Compiled without contraction into
// fused multiply-adds: the expressions are the format's, as written.
#include "philox.hpp"

#include <cmath>

namespace soda {

Words4 philox4x32(Words4 c, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t(0xD2511F53) * c[0], p1 = uint64_t(0xCD9E8D57) * c[2];
        c = {uint32_t(p1 >> 32) ^ c[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k1, uint32_t(p0)};
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

void normal(uint64_t seed, uint32_t stream, uint32_t row, float* values, size_t count) {
    constexpr double two_pi = 0x1.921fb54442d18p+2;
    for (size_t begin = 0; begin < count; begin += 4) {
        const Words4 words = philox4x32({uint32_t(begin / 4), stream, row, 0}, uint32_t(seed), uint32_t(seed >> 32));
        for (size_t pair = 0; pair < 2; ++pair) {
            const double radius = std::sqrt(-2.0 * std::log((words[2 * pair] + 1.0) * 0x1p-32));
            const double angle = two_pi * (words[2 * pair + 1] * 0x1p-32);
            const size_t place = begin + 2 * pair;
            if (place < count) values[place] = float(radius * std::cos(angle));
            if (place + 1 < count) values[place + 1] = float(radius * std::sin(angle));
        }
    }
}

void latent_noise(uint64_t seed, uint32_t stream, size_t batch, size_t count, float* values) {
    for (size_t row = 0; row < batch; ++row) normal(seed, stream, uint32_t(row), values + row * count, count);
}

}  // namespace soda
