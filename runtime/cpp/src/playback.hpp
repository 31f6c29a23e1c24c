// Bind one bundle for one batch size: every buffer allocated, every step's addresses fixed, ready to be called.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "bundle.hpp"

namespace soda {

// The buffers and bound calls of one (bundle, batch, accelerated or baseline). Used by one thread at a time.
class Playback {
public:
    // poll is called between programs that are opened; it may throw.
    Playback(Bundle& bundle, int64_t batch, bool accelerated, const std::function<void()>& poll);

    const int64_t batch;
    const bool accelerated;

    Memory& state_after(int64_t steps_done) { return *states_[steps_done % 2]; }
    Memory& guidance() { return *guidance_; }
    Memory& noise() { return *noise_; }
    Memory& port(const std::string& name) { return *ports_.at(name); }

    void encode(size_t program);         // ports that an encoder makes; it is opened at the first call
    void prepare_request();              // tensors of the request
    void run_step(int64_t i);            // before it, tensors of its window of steps where one begins
    Memory& finish(int64_t steps_done);  // the finish program's result, float32 [batch, *shape]

private:
    std::unique_ptr<Memory> allocate(const Port& port, int64_t times = 1) const;
    int64_t window_steps() const;
    int64_t written_bytes() const;
    Call bind_prepare(const PrepareProgram& program, int64_t first);
    Call bind_step(int64_t index, size_t program);
    View view_of(const Memory& memory, const Port& port, const Axes& axes, int64_t row = 0) const;
    const Memory& place_of(const std::string& name) const;

    Bundle& bundle_;
    Axes axes_;
    int64_t window_;
    std::unique_ptr<Memory> arena_, states_[2], guidance_, noise_;
    std::map<std::string, std::unique_ptr<Memory>> ports_, tensors_;
    std::map<size_t, Call> encode_;  // by index into `prepare`
    std::vector<Call> once_, steps_;
    std::vector<std::vector<Call>> windows_;
    std::unique_ptr<Memory> result_;
    std::optional<Call> finish_[2];
};

}  // namespace soda
