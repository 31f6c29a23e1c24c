// Play one request at a time: values of the bundle's ports and a seed in, latents and what is made of them out.
#pragma once

#include <atomic>

#include "playback.hpp"
#include "request.hpp"

namespace soda {

// One thread's player of a bundle. Nothing is carried from one request to the next.
class Session {
public:
    explicit Session(std::shared_ptr<Bundle> bundle) : bundle_(std::move(bundle)) {}

    void start(const soda_request& request, const RequestArrays& arrays = {});
    void step(int64_t index);
    void run_all();  // what is left of the steps
    void latents(float* values, size_t count);
    // Images [samples, height, width, channels], video [samples, frames, height, width, channels] or audio [samples,
    // channels, length]; RequestError beyond room.
    std::vector<float> result(size_t room);
    std::vector<float> pictures(size_t room);  // RequestError where the result is audio
    std::vector<float> images(size_t room);    // RequestError where it is video or audio
    void demand_room(size_t count) const;      // for the latents, before anything more runs
    // "latents", or the finish program's "images", "video" or "audio", to memory of the bundle's CUDA device, in the
    // order of its stream.
    void to_device(const std::string& output, void* address, size_t bytes);
    void reset();
    void cancel() { cancelled_ = current_.load(); }  // from any thread

    int64_t samples() const { return playback_ && started_ ? playback_->batch : 0; }
    int64_t steps_done() const { return started_ ? next_step_ : 0; }
    Bundle& bundle() const { return *bundle_; }

private:
    Playback& playback();
    void begin(const soda_request& request, const DeviceArrays& device, const Condition& condition, double guidance,
               std::optional<int64_t> first);
    std::vector<float> planes(size_t room);  // the result with its axes in the program's order
    void write_noise(int64_t index);
    void check_cancelled();
    int64_t latent_count() const;
    // values: [samples, ...]. EngineError where one is NaN or infinite.
    void require_finite(const std::string& what, const float* values, int64_t count) const;

    std::shared_ptr<Bundle> bundle_;
    std::unique_ptr<Playback> playback_;
    bool started_ = false;
    int64_t next_step_ = 0;
    soda_request request_{};                 // of what is read while steps run: seed, noise_steps, progress
    const char* noise_on_device_ = nullptr;  // of all steps, the caller's
    std::vector<float> scratch_;
    uint64_t requests_ = 0;
    std::atomic<uint64_t> current_{0};  // number of the request in progress, 0: none
    std::atomic<uint64_t> cancelled_{0};
};

}  // namespace soda
