// Make a video of latents call by call: each takes some frames of them and what the call before hands on.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "bundle.hpp"

namespace soda {

// The finish programs of one (bundle, batch), bound. Latents pass through the host, a chunk at a time; what calls carry
// stays where the engines run, in two buffers in turn. Used by one thread at a time.
class VideoMaker {
public:
    VideoMaker(Bundle& bundle, int64_t batch);
    VideoMaker(const VideoMaker&) = delete;
    VideoMaker& operator=(const VideoMaker&) = delete;

    // latents: [batch, *latent_shape], copied.
    void begin(const float* latents);
    // Chunk `index`, float32 [batch, frames, channels, height, width]; those before it have been made.
    const Memory& make(int64_t index);

private:
    struct Program {
        std::shared_ptr<const Engine> engine;
        Signature signature;
        std::unique_ptr<Memory> latents, video;
        std::optional<Call> calls[2];  // by the buffer that is taken from
    };

    void add(Bundle& bundle, bool first);
    void write_latents(Memory& to, int64_t first_frame, int64_t frames);
    Call bind(const Program& program, int64_t turn) const;

    const Manifest& manifest_;
    const FinishProgram& finish_;
    const Axes axes_;
    std::vector<Program> programs_;  // of the first call, where it has its own, and of the others
    std::map<std::string, std::unique_ptr<Memory>> carried_[2];
    std::vector<float> latents_, part_;
};

}  // namespace soda
