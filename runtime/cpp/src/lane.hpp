// A playback and the samples of a request that it plays.
#pragma once

#include "adaptive.hpp"
#include "request.hpp"

namespace soda {

// Samples first .. first + batch - 1 of the request's `size`: all of them, or one that decides alone.
class Lane {
public:
    Lane(std::unique_ptr<Playback> playback, int64_t first, int64_t size)
        : first(first), size(size), playback_(std::move(playback)) {}

    const int64_t first, size;

    Playback& playback() const { return *playback_; }
    int64_t batch() const { return playback_->batch; }
    const AdaptivePlayback* adaptive() const { return dynamic_cast<const AdaptivePlayback*>(playback_.get()); }

    // Put what the programs read in its place, but for what lies on the device. state: [n, size, *latent_shape].
    // decisions: [S, size] to take, or none.
    void write(const Manifest& manifest, const std::vector<float>& state, const Condition& condition, double guidance,
               const std::vector<int64_t>& decisions) const;

private:
    void write_samples(Memory& to, const void* values, int64_t bytes, int64_t groups) const;

    std::unique_ptr<Playback> playback_;
};

}  // namespace soda
