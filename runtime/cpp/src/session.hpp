// Play one request at a time: values of the bundle's ports and a seed in, latents and what is made of them out.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "preview.hpp"
#include "text/prompts.hpp"

namespace soda {

// Latents: those after the steps run so far, or the clean ones that the latest step predicts.
enum class Of { now, preview };

// One thread's player of a bundle. Nothing is carried from one request to the next.
class Session {
public:
    explicit Session(std::shared_ptr<Bundle> bundle) : bundle_(std::move(bundle)) {}

    void start(const soda_request& request, const RequestArrays& arrays = {});
    void step(int64_t index);
    void run_all();  // what is left of the steps
    void latents(float* values, size_t count, Of of = Of::now);
    // What the steps so far of an adaptive request did, [steps, samples]: actions of the policy, 0 computed.
    std::vector<int64_t> decisions() const;
    // Images [samples, height, width, channels], video [samples, frames, height, width, channels] or audio [samples,
    // channels, length]; RequestError beyond room.
    std::vector<float> result(size_t room, Of of = Of::now);
    // Chunk `index` of a video, [samples, frames, height, width, channels]: they are made in order, anew from 0.
    std::vector<float> chunk(int64_t index, size_t room);
    std::vector<float> pictures(size_t room, Of of = Of::now);  // RequestError where the result is audio
    std::vector<float> images(size_t room);                     // RequestError where it is video or audio
    void demand_room(size_t count) const;                       // for the latents, before anything more runs
    // "latents", or the finish program's "images", "video" or "audio", to memory of the bundle's CUDA device, in the
    // order of its stream.
    void to_device(const std::string& output, void* address, size_t bytes);
    void reset();
    void cancel() { cancelled_ = current_.load(); }  // from any thread
    // Whether the calling thread is in the progress callback of a step.
    bool calls_back_here() const { return called_back_.load() == std::this_thread::get_id(); }

    const std::vector<Truncation>& truncated() const { return truncated_; }  // of the request in progress
    int64_t samples() const { return started_ ? kind_.samples : 0; }
    int64_t steps_done() const { return started_ ? next_step_ : 0; }
    Bundle& bundle() const { return *bundle_; }

private:
    // What the lanes are bound for.
    struct Kind {
        int64_t samples;
        Play play;
        Vote vote;
        std::optional<int64_t> start;
        uint64_t weights;  // version of those that engines take in the place of the files' own

        bool operator==(const Kind& other) const {
            return samples == other.samples && play == other.play && vote == other.vote && start == other.start &&
                   weights == other.weights;
        }
        // Each sample has a lane of its own.
        bool apart() const { return play == Play::adaptive && vote == Vote::sample && samples > 1; }
    };

    const std::vector<Lane>& lanes() const;  // of a request that has been started
    void open_lanes(const Kind& kind);
    void begin(const soda_request& request, const DeviceArrays& device, const Condition& condition, double guidance,
               const Kind& kind, const std::vector<int64_t>& decisions);
    std::vector<float> planes(size_t room, Of of);  // the result with its axes in the program's order
    void begin_chunks(Of of);                       // of a video
    bool call_back();                               // whether the request's callback cancels
    // visit(sample, memory, offset): where each sample's part of a chunk lies.
    void make_chunk(int64_t index, const std::function<void(int64_t, const Memory&, int64_t)>& visit);
    void write_noise(const Lane& lane, int64_t index);
    void check_cancelled();
    int64_t latent_count() const;
    int64_t sample_count() const;  // of one sample
    // values: [samples, ...]. EngineError where one is NaN or infinite.
    void require_finite(const std::string& what, const float* values, int64_t count) const;

    std::shared_ptr<Bundle> bundle_;
    std::vector<Lane> lanes_;
    Kind kind_{};
    bool started_ = false;
    int64_t next_step_ = 0;
    int64_t next_chunk_ = 0;  // 0: no video is being made
    soda_request request_{};                 // of what is read while steps run: seed, noise_steps, progress
    const char* noise_on_device_ = nullptr;  // of all steps, the caller's
    std::vector<Truncation> truncated_;
    std::vector<float> scratch_;
    uint64_t requests_ = 0;
    std::atomic<uint64_t> current_{0};  // number of the request in progress, 0: none
    std::atomic<uint64_t> cancelled_{0};
    std::atomic<std::thread::id> called_back_{std::thread::id()};
};

}  // namespace soda
