// A request whose arrays lie in the memory of the recording stand-in for a device, and the same request on the host.
#pragma once

#include <dlfcn.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "soda_runtime.hpp"

// A function of fake_cudart.
template <class Function>
Function fake(const char* name) {
    static void* library = ::dlopen("libcudart.so.13", RTLD_NOW | RTLD_LOCAL);
    CHECK(library);
    const auto function = reinterpret_cast<Function>(::dlsym(library, name));
    CHECK(function);  // else it is the real library
    return function;
}

// The application's own device memory.
class OnDevice {
public:
    explicit OnDevice(size_t bytes) : bytes_(bytes) {
        CHECK(fake<int (*)(void**, size_t)>("cudaMalloc")(&address_, bytes) == 0);
    }
    template <class T>
    explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size() * sizeof(T)) {
        std::memcpy(address_, values.data(), bytes_);
    }
    ~OnDevice() {
        fake<void (*)()>("fake_cuda_finish")();
        fake<int (*)(void*)>("cudaFree")(address_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

    void* address() const { return address_; }
    size_t bytes() const { return bytes_; }
    std::vector<float> floats() const {
        std::vector<float> values(bytes_ / 4);
        std::memcpy(values.data(), address_, bytes_);
        return values;
    }

private:
    void* address_ = nullptr;
    size_t bytes_;
};

inline void finish() {
    fake<void (*)()>("fake_cuda_finish")();
}

inline size_t latent_count(const soda_info& info) {
    return size_t(info.latent_shape[0] * info.latent_shape[1] * info.latent_shape[2]);
}

inline std::vector<float> noise(uint64_t seed, uint32_t streams, uint32_t first, size_t samples, size_t count) {
    std::vector<float> values(streams * samples * count);
    for (uint32_t stream = 0; stream < streams; ++stream)
        for (size_t row = 0; row < samples; ++row)
            soda::check(
                soda_noise(seed, first + stream, uint32_t(row), &values[(stream * samples + row) * count], count));
    return values;
}

// Every array of a request in device memory, and the same request on the host.
struct Twin {
    soda::Request host, device;
    std::vector<std::unique_ptr<OnDevice>> arrays;

    template <class T>
    void add(const char* name, const std::vector<T>& values) {
        arrays.push_back(std::make_unique<OnDevice>(values));
        device.on_device(name, arrays.back()->address(), arrays.back()->bytes());
    }
    Twin(const soda_info& info, size_t samples) {
        const size_t count = latent_count(info), tokens = size_t(info.max_tokens);
        const auto initial = noise(9, 1, 0, samples, count);
        const auto steps = info.stochastic ? noise(9, uint32_t(info.steps), 1, samples, count) : std::vector<float>();
        host.noise(initial, steps).samples(int32_t(samples));
        device.samples(int32_t(samples));
        add("noise_initial", initial);
        if (info.stochastic) add("noise_steps", steps);
        if (info.condition == SODA_LABELS) {
            const std::vector<int64_t> labels(samples, 3);
            host.labels(labels);
            add("labels", labels);
            return;
        }
        const auto embeds = noise(1, 1, 0, samples, tokens * size_t(info.embed_width));
        const auto negative = noise(2, 1, 0, 1, tokens * size_t(info.embed_width));  // one for all samples
        std::vector<int64_t> mask(samples * tokens, 1), ones(tokens, 1);
        mask.back() = 0;
        host.embeds(embeds, mask).negative_embeds(negative, ones);
        add("embeds", embeds);
        add("negative_embeds", negative);
        add("token_mask", mask);
        add("negative_token_mask", ones);
    }
};
