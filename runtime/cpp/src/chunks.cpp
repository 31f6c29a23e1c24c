// Which latent frames each call of a video's programs takes, and which frames it makes.
#include "chunks.hpp"

#include <algorithm>

#include "consistency.hpp"
#include "errors.hpp"
#include "names.hpp"

namespace soda {

std::string chunk_problem(const Manifest& m) {
    const Sizes& latents = m.model.latent_shape;
    for (const FinishProgram& finish : m.finish) {
        if (finish.kind != ResultKind::video) continue;
        if (latents.size() != 4) return say("finish[0]: latents of ", latents.size(), " axes are no frames of a video");
        int64_t latent_frames = latents[1], frames = finish.shape[0];
        for (const Chunk& first : finish.first) {
            latent_frames -= first.latent_frames;
            frames -= first.frames;
        }
        const int64_t calls = latent_frames / finish.latent_frames;
        if (calls < 1 || latent_frames != calls * finish.latent_frames || frames != calls * finish.frames)
            return say("finish[0]: calls do not make ", finish.shape[0], " frames of ", latents[1], " latent frames");
        Names names;
        for (const Carry& carry : finish.carry) names.push_back(carry.name);
        if (has_duplicates(names) || !std::all_of(names.begin(), names.end(), is_slot_name))
            return "finish[0].carry: a name stands twice, or is not plain";
    }
    return "";
}

int64_t num_chunks(const Manifest& m) {
    if (m.finish.empty() || m.finish[0].kind != ResultKind::video) return 0;
    const FinishProgram& finish = m.finish[0];
    const int64_t first = finish.first.empty() ? 0 : finish.first[0].frames;
    return int64_t(finish.first.size()) + (finish.shape[0] - first) / finish.frames;
}

ChunkFrames chunk_frames(const FinishProgram& finish, int64_t index) {
    const int64_t calls = index - int64_t(finish.first.size());
    if (calls < 0) return {0, finish.first[0].latent_frames, 0, finish.first[0].frames};
    ChunkFrames chunk{calls * finish.latent_frames, finish.latent_frames, calls * finish.frames, finish.frames};
    for (const Chunk& first : finish.first) {
        chunk.first_latent += first.latent_frames;
        chunk.first_frame += first.frames;
    }
    return chunk;
}

}  // namespace soda
