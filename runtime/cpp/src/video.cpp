#include "video.hpp"

#include <algorithm>

#include "chunks.hpp"

namespace soda {
namespace {

void clear(Memory& memory) {
    static const std::vector<char> zeros(1 << 20);  // what is on its way to a device passes through pinned memory
    for (int64_t begin = 0; begin < memory.bytes(); begin += int64_t(zeros.size()))
        memory.write(zeros.data(), std::min(memory.bytes() - begin, int64_t(zeros.size())), begin);
}

}  // namespace

VideoMaker::VideoMaker(Bundle& bundle, int64_t batch)
    : manifest_(bundle.manifest()), finish_(manifest_.finish.at(0)), axes_{batch, batch, 1} {
    // all engines are opened, and so checked against the manifest, before the manifest's sizes are allocated
    if (!finish_.first.empty()) add(bundle, true);
    add(bundle, false);
    const auto allocate = [&](const Port& port) { return bundle.backend().allocate(port.bytes(axes_)); };
    for (Program& program : programs_) {
        program.latents = allocate(program.signature.inputs.at("latents"));
        program.video = allocate(program.signature.outputs.at("video"));
    }
    for (const Carry& carry : finish_.carry)
        for (auto& carried : carried_)
            carried[carry.name] = allocate(programs_.back().signature.inputs.at("carry." + carry.name));
}

void VideoMaker::add(Bundle& bundle, bool first) {
    programs_.push_back({bundle.finish_engine(first), finish_signature(manifest_, finish_, first), {}, {}, {}});
}

void VideoMaker::begin(const float* latents) {
    latents_.assign(latents, latents + axes_.batch * element_count(manifest_.model.latent_shape));
    for (auto& [name, memory] : carried_[0]) clear(*memory);
}

const Memory& VideoMaker::make(int64_t index) {
    const ChunkFrames chunk = chunk_frames(finish_, index);
    Program& program = index == 0 ? programs_.front() : programs_.back();
    const int64_t turn = finish_.carry.empty() ? 0 : index % 2;
    if (!program.calls[turn]) program.calls[turn].emplace(bind(program, turn));
    write_latents(*program.latents, chunk.first_latent, chunk.latent_frames);
    (*program.calls[turn])();
    return *program.video;
}

void VideoMaker::write_latents(Memory& to, int64_t first_frame, int64_t frames) {
    const Sizes& shape = manifest_.model.latent_shape;
    const int64_t frame = shape[2] * shape[3];
    part_.clear();
    for (int64_t channel = 0; channel < axes_.batch * shape[0]; ++channel) {
        const auto begin = latents_.begin() + (channel * shape[1] + first_frame) * frame;
        part_.insert(part_.end(), begin, begin + frames * frame);
    }
    to.write(part_.data(), to.bytes());
}

Call VideoMaker::bind(const Program& program, int64_t turn) const {
    const auto view = [&](const Memory& memory, const Port& port) {
        return View{&memory, 0, port.dtype, port.at(axes_)};
    };
    const Signature& signature = program.signature;
    Views inputs{{"latents", view(*program.latents, signature.inputs.at("latents"))}};
    Views outputs{{"video", view(*program.video, signature.outputs.at("video"))}};
    for (const Carry& carry : finish_.carry) {
        const std::string in = "carry." + carry.name, out = "carry_out." + carry.name;
        inputs.emplace(in, view(*carried_[turn].at(carry.name), signature.inputs.at(in)));
        outputs.emplace(out, view(*carried_[1 - turn].at(carry.name), signature.outputs.at(out)));
    }
    return program.engine->bind("finish", inputs, outputs);
}

}  // namespace soda
