// Which latent frames each call of a video's programs takes, and which frames it makes.
#pragma once

#include "manifest.hpp"

namespace soda {

// One call: the first of its frames, and how many.
struct ChunkFrames {
    int64_t first_latent, latent_frames, first_frame, frames;
};

int64_t num_chunks(const Manifest& manifest);  // of a checked manifest; 0 where it makes no video
ChunkFrames chunk_frames(const FinishProgram& finish, int64_t index);

}  // namespace soda
