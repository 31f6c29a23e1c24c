// Judge the guidance scale and the caller's noise.
#include <algorithm>
#include <cmath>

#include "errors.hpp"
#include "request.hpp"

namespace soda {
namespace {

constexpr double max_guidance = 3.0e38;

// Noise on the host or the device, whichever is given.
struct NoiseInput {
    const char* name;
    const float* host;
    const DeviceArray* device;

    explicit operator bool() const { return host || device; }

    void require_room(int64_t bytes) const {
        if (device && device->bytes < bytes)
            throw RequestError(
                say("device array '", name, "' has ", device->bytes, " bytes, the request takes ", bytes),
                SODA_REQUEST_ARGUMENT);
    }

    void require_finite(int64_t begin, int64_t count) const {
        if (host && !std::all_of(host + begin, host + begin + count, [](float value) { return std::isfinite(value); }))
            throw RequestError(say(name, ": has values that are not finite"));
    }
};

NoiseInput find_noise(const char* name, const float* host, const DeviceArrays& arrays) {
    const auto found = arrays.find(name);
    return {name, host, found == arrays.end() ? nullptr : &found->second};
}

}  // namespace

double judge_guidance(const Manifest& manifest, const soda_request& request) {
    if (!request.has_guidance) return manifest.guidance;
    if (!(std::abs(request.guidance) <= max_guidance)) throw RequestError("guidance is not a number within float32");
    if (manifest.rows_per_sample == 1 && request.guidance != manifest.guidance)
        throw RequestError(say("this bundle was built without guidance; guidance ", request.guidance,
                               " has no effect in it; build one with --guidance above 1"));
    return request.guidance;
}

void judge_noise(const Manifest& manifest, const soda_request& request, const DeviceArrays& device, int64_t samples) {
    const NoiseInput initial = find_noise("noise_initial", request.noise_initial, device);
    const NoiseInput steps = find_noise("noise_steps", request.noise_steps, device);
    if (!initial) {
        if (steps) throw RequestError("noise_steps needs noise_initial");
        return;
    }
    const int64_t count = checked_product(samples, element_count(manifest.model.latent_shape));
    initial.require_room(checked_product(count, 4));
    if (initial.device && manifest.sampler.initial_scale != 1)
        throw RequestError(say("noise_initial lies on the device, and this sampler multiplies it by ",
                               manifest.sampler.initial_scale, "; give it on the host"));
    initial.require_finite(0, count);
    if (!manifest.sampler.stochastic) return;
    if (!steps) throw RequestError("this sampler adds noise at every step; give noise_steps");
    steps.require_room(checked_product(checked_product(count, 4), manifest.sampler.steps));
    for (int64_t i = 0; i < manifest.sampler.steps; ++i) steps.require_finite(i * count, count);
}

}  // namespace soda
