// What a session gives of its latents: these, previews, images, video in chunks, sound.
#include <algorithm>
#include <cmath>

#include "chunks.hpp"
#include "errors.hpp"
#include "session.hpp"

namespace soda {

namespace {

// shape: it ends in channels, height and width. Planes of any number of these -> height, width, channels.
std::vector<float> channels_last(const std::vector<float>& planes, const Sizes& shape) {
    const size_t axes = shape.size(), channels = size_t(shape[axes - 3]),
                 pixels = size_t(shape[axes - 2] * shape[axes - 1]);
    std::vector<float> images(planes.size());
    for (size_t begin = 0; begin < planes.size(); begin += channels * pixels)
        for (size_t channel = 0; channel < channels; ++channel)
            for (size_t pixel = 0; pixel < pixels; ++pixel)
                images[begin + pixel * channels + channel] = planes[begin + channel * pixels + pixel];
    return images;
}

}  // namespace

void Session::latents(float* values, size_t count, Of of) {
    const std::vector<Lane>& players = lanes();
    if (!values) throw RequestError("latents is NULL", SODA_REQUEST_ARGUMENT);
    demand_room(count);
    if (of == Of::preview && next_step_ == players[0].playback().first)
        throw RequestError("no preview before the first step has run");
    for (const Lane& lane : players) {
        float* place = values + lane.first * sample_count();
        if (of == Of::preview) {
            const std::vector<float> preview = preview_of(lane, *bundle_, next_step_ - 1);
            std::copy(preview.begin(), preview.end(), place);
        } else {
            lane.playback().state_after(next_step_).read(place, lane.batch() * sample_count() * 4);
        }
    }
    require_finite(of == Of::preview ? "the preview" : "latents", values, latent_count());
}

void Session::require_finite(const std::string& what, const float* values, int64_t count) const {
    const float* wrong = std::find_if_not(values, values + count, [](float value) { return std::isfinite(value); });
    if (wrong == values + count) return;
    const Manifest& m = bundle_->manifest();
    throw EngineError(say(bundle_->folder(), ": ", what, " of sample ", (wrong - values) / (count / kind_.samples),
                          " after ", next_step_, " of ", m.sampler.steps, " steps: a value is NaN or infinite; ",
                          m.precision, " may be too narrow for the model: build with another --precision"));
}

void Session::demand_room(size_t count) const {
    const int64_t needed = latent_count();
    if (count < size_t(needed))
        throw RequestError(say("room for ", count, " floats, the latents have ", needed), SODA_REQUEST_ARGUMENT);
}

std::vector<float> Session::planes(size_t room, Of of) {
    const Manifest& m = bundle_->manifest();
    const std::vector<Lane>& players = lanes();
    if (m.finish.empty() && !m.model.pixels)
        throw RequestError("this bundle has no decoder, its results are latents; build it with the model's VAE");
    const Sizes& shape = m.finish.empty() ? m.model.latent_shape : m.finish[0].shape;
    const int64_t needed = checked_product(kind_.samples, element_count(shape));
    if (room < size_t(needed))
        throw RequestError(say("room for ", room, " values, the result has ", needed), SODA_REQUEST_ARGUMENT);
    std::vector<float> planes(size_t(needed), 0.0f);
    if (num_chunks(m)) {
        const int64_t frame = element_count(shape) / shape[0];
        begin_chunks(of);
        for (int64_t index = 0; index < num_chunks(m); ++index) {
            const ChunkFrames chunk = chunk_frames(m.finish[0], index);
            make_chunk(index, [&](int64_t sample, const Memory& made, int64_t offset) {
                made.read(planes.data() + (sample * shape[0] + chunk.first_frame) * frame, chunk.frames * frame * 4,
                          offset);
            });
        }
        require_finite("video", planes.data(), needed);
        return planes;
    }
    if (!m.finish.empty()) {
        std::vector<float> given(of == Of::preview ? size_t(latent_count()) : 0);
        if (of == Of::preview) latents(given.data(), given.size(), of);
        for (const Lane& lane : players) {
            Playback& player = lane.playback();
            const Memory& made = of == Of::preview ? player.finish_given(given.data() + lane.first * sample_count())
                                                   : player.finish(next_step_);
            made.read(planes.data() + lane.first * element_count(shape), made.bytes());
        }
        require_finite(result_name(m.finish[0].kind), planes.data(), needed);
        return planes;
    }
    latents(planes.data(), planes.size(), of);
    for (float& value : planes) value = std::min(std::max(value / 2 + 0.5f, 0.0f), 1.0f);
    return planes;
}

void Session::begin_chunks(Of of) {
    next_chunk_ = 0;
    std::vector<float> values(size_t(latent_count()), 0.0f);
    latents(values.data(), values.size(), of);
    for (const Lane& lane : lanes()) lane.playback().video().begin(values.data() + lane.first * sample_count());
}

void Session::make_chunk(int64_t index, const std::function<void(int64_t, const Memory&, int64_t)>& visit) {
    next_chunk_ = 0;  // until all of it is there: a program may fail
    for (const Lane& lane : lanes()) {
        const Memory& made = lane.playback().video().make(index);
        for (int64_t i = 0; i < lane.batch(); ++i) visit(lane.first + i, made, made.bytes() / lane.batch() * i);
    }
}

std::vector<float> Session::chunk(int64_t index, size_t room) {
    const Manifest& m = bundle_->manifest();
    lanes();
    const int64_t count = num_chunks(m);
    if (!count) throw RequestError("this bundle makes no video; take what it makes with soda_result");
    if (index < 0 || index >= count)
        throw RequestError(say("chunk ", index, " of ", count), SODA_REQUEST_ARGUMENT);
    if (index && index != next_chunk_)
        throw RequestError(say("chunk ", index, " cannot be made now; next is ", next_chunk_, " of ", count));
    const Sizes& shape = m.finish[0].shape;
    const int64_t part = chunk_frames(m.finish[0], index).frames * (element_count(shape) / shape[0]);
    const int64_t needed = checked_product(kind_.samples, part);
    if (room < size_t(needed))
        throw RequestError(say("room for ", room, " values, the chunk has ", needed), SODA_REQUEST_ARGUMENT);
    if (!index) begin_chunks(Of::now);
    std::vector<float> planes(size_t(needed), 0.0f);
    make_chunk(index, [&](int64_t sample, const Memory& made, int64_t offset) {
        made.read(planes.data() + sample * part, part * 4, offset);
    });
    require_finite("video", planes.data(), needed);
    next_chunk_ = index + 1;
    return channels_last(planes, shape);
}

std::vector<float> Session::result(size_t room, Of of) {
    const Manifest& m = bundle_->manifest();
    std::vector<float> planes = this->planes(room, of);
    if (!m.finish.empty() && m.finish[0].kind == ResultKind::audio) return planes;
    return channels_last(planes, m.finish.empty() ? m.model.latent_shape : m.finish[0].shape);
}

std::vector<float> Session::pictures(size_t room, Of of) {
    const auto& finish = bundle_->manifest().finish;
    if (!finish.empty() && finish[0].kind == ResultKind::audio)
        throw RequestError("this bundle makes audio, which has no colours; take it with soda_result");
    return result(room, of);
}

std::vector<float> Session::images(size_t room) {
    const auto& finish = bundle_->manifest().finish;
    if (!finish.empty() && finish[0].kind != ResultKind::image)
        throw RequestError(say("this bundle makes ", result_name(finish[0].kind), "; take it with soda_result"));
    return result(room);
}

void Session::to_device(const std::string& output, void* address, size_t bytes) {
    const Manifest& m = bundle_->manifest();
    const std::vector<Lane>& players = lanes();
    const auto refuse = [](const auto&... what) { throw RequestError(say(what...), SODA_REQUEST_ARGUMENT); };
    const bool latents = output == "latents";
    if (!latents && output != "images" && output != "video" && output != "audio")
        refuse("output ", shown(output), " is none of 'latents', 'images', 'video' and 'audio'");
    if (!bundle_->backend().stream()) refuse("this bundle is on the CPU; use soda_latents or soda_result");
    if (!address) refuse(output, ": the address is NULL");
    if (!latents && m.finish.empty())
        throw RequestError("this bundle has no decoder; take its latents, or use soda_images where they are pixels");
    if (!latents && output != output_name(m.finish[0].kind))
        throw RequestError(say("this bundle makes ", output_name(m.finish[0].kind), ", not ", output));
    const Sizes& shape = latents ? m.model.latent_shape : m.finish[0].shape;
    if (players.size() > 1)
        throw RequestError("the samples decide for themselves, so their latents lie apart; give vote='any'");
    Playback& player = players[0].playback();
    const int64_t needed = checked_product(player.batch, element_count(shape) * 4);
    if (bytes < size_t(needed)) refuse("room for ", bytes, " bytes, the ", output, " have ", needed);
    bundle_->backend().judge_address(output, address);
    if (latents || !num_chunks(m))
        return (latents ? player.state_after(next_step_) : player.finish(next_step_)).copy_to(address, needed);
    const int64_t frame = element_count(shape) / shape[0] * 4;
    begin_chunks(Of::now);
    for (int64_t index = 0; index < num_chunks(m); ++index) {
        const ChunkFrames chunk = chunk_frames(m.finish[0], index);
        make_chunk(index, [&](int64_t sample, const Memory& made, int64_t offset) {
            made.copy_to(static_cast<char*>(address) + (sample * shape[0] + chunk.first_frame) * frame,
                         chunk.frames * frame, offset);
        });
    }
}

}  // namespace soda
