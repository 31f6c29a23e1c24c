// Bind one bundle for one batch size: every buffer allocated, every step's addresses fixed, ready to be called.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "bundle.hpp"
#include "plays.hpp"
#include "video.hpp"

namespace soda {

// What a playback is bound for. start: the step at which a run from given latents starts; none: it begins with noise.
struct PlaybackKind {
    int64_t batch;
    Play play;
    std::optional<int64_t> start;
};

// The buffers and bound calls of one (bundle, kind). Used by one thread at a time.
class Playback {
public:
    // poll is called between programs that are opened; it may throw.
    Playback(Bundle& bundle, const PlaybackKind& kind, const std::function<void()>& poll);
    virtual ~Playback() = default;
    Playback(const Playback&) = delete;
    Playback& operator=(const Playback&) = delete;

    const PlaybackKind kind;
    const int64_t batch;
    const int64_t first;  // the step that runs first

    Memory& initial_state() { return state_after(first); }
    Memory& state_after(int64_t steps_done) { return *states_[steps_done % 2]; }
    Memory& guidance() { return *guidance_; }
    Memory& noise() { return *noise_; }
    Memory& port(const std::string& name) { return *ports_.at(name); }

    void encode(size_t program);         // ports that an encoder makes; it is opened at the first call
    void prepare_request();              // tensors of the request
    virtual void run_step(int64_t i);    // before it, tensors of its window of steps where one begins
    Memory& finish(int64_t steps_done);         // the finish program's image or sound, float32 [batch, *shape]
    Memory& finish_given(const float* latents);  // the same of other latents, float32 [batch, *latent_shape]
    VideoMaker& video();                        // what makes the video; bound at first use
    // What step `i`, the latest one, took as `coefficients`.
    virtual std::vector<float> row_of(int64_t i) const;

protected:
    void prepare_window(int64_t i);  // where step i is the first of one that runs
    const Call& call_of_step(int64_t i) const { return steps_[size_t(i - first)]; }
    Call bind_step(int64_t index, size_t program);
    void write_row(const float* row);  // what an adaptive play's next step takes as `coefficients`
    std::unique_ptr<Memory> allocate(const Port& port, int64_t times = 1) const;
    View view_of(const Memory& memory, const Port& port, const Axes& axes, int64_t row = 0) const;

    Bundle& bundle_;
    const SharedReplaced replaced_;  // of all of its engines, whatever strengths LoRA gets meanwhile
    Axes axes_;

private:
    int64_t window_steps() const;
    int64_t written_bytes() const;
    Call bind_prepare(const PrepareProgram& program, int64_t first);
    const Memory& coefficients();  // what each step takes as `coefficients`, row by row; of an adaptive play one row
    const Memory& place_of(const std::string& name) const;

    const std::vector<bool> cached_;  // steps that run the schedule's programs; the others compute everything
    int64_t window_;
    std::unique_ptr<Memory> arena_, states_[2], guidance_, noise_, own_rows_;
    std::map<std::string, std::unique_ptr<Memory>> ports_, tensors_;
    std::map<size_t, Call> encode_;  // by index into `prepare`
    std::vector<Call> once_, steps_;  // steps_: from `first` on
    std::vector<std::vector<Call>> windows_;
    Memory& run_finish(size_t which, const Memory& latents);

    std::unique_ptr<Memory> result_, given_;
    std::optional<Call> finish_[3];  // of the two states, and of latents that are given
    std::unique_ptr<VideoMaker> video_;
};

}  // namespace soda
