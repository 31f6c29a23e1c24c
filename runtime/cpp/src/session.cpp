#include "session.hpp"

#include <algorithm>
#include <cmath>

#include "chunks.hpp"
#include "errors.hpp"
#include "philox.hpp"
#include "starts.hpp"

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

int64_t Session::latent_count() const {
    return checked_product(kind_.samples, sample_count());
}

int64_t Session::sample_count() const {
    return element_count(bundle_->manifest().model.latent_shape);
}

void Session::check_cancelled() {
    const uint64_t current = current_.load(std::memory_order_relaxed);
    if (current == 0 || cancelled_.load(std::memory_order_relaxed) != current) return;
    reset();
    throw Cancelled();
}

void Session::start(const soda_request& request, const RequestArrays& arrays) {
    const Manifest& m = bundle_->manifest();
    const DeviceArrays& device = arrays.device;
    judge_device_arrays(device, request, bundle_->backend());
    Embeds file;
    const std::vector<Given> inputs = list_inputs(m, request, arrays, file);
    for (const Given& given : inputs)
        if (given.device) judge_device_address(given.name, given.device, bundle_->backend());
    const auto first = judge_start(m, bundle_->tables(), request);
    const Condition condition = judge_condition(m, inputs, request.samples, request.num_start_latents,
                                                [this](size_t number) { return bundle_->vocabulary(number); });
    if (request.start_latents) judge_start_latents(m, request, condition.samples);
    const double guidance = judge_guidance(m, request);
    judge_noise(m, request, device, condition.samples);
    if ((first || bundle_->tables().count(start_known_table)) && device.count("noise_initial"))
        throw RequestError("noise_initial lies on the device, and is mixed with latents; give it on the host");
    const OpenedPolicy* policy = bundle_->policy();
    const JudgedPlay how = judge_play(request, policy ? &policy->policy : nullptr, m.sampler.steps, condition.samples,
                                      !bundle_->backend().stream());
    const Kind kind{condition.samples, how.play, how.vote, first};
    if (kind.apart() && (!device.empty() || !condition.on_device.empty()))
        throw RequestError("vote='sample' of tensors on a device: give host arrays, or vote='any'");
    bundle_->require_weights();
    started_ = false;  // until everything below is done: a program may fail
    next_chunk_ = 0;
    current_ = ++requests_;
    try {
        begin(request, device, condition, guidance, kind, how.decisions);
    } catch (...) {
        current_ = 0;
        throw;
    }
    next_step_ = first.value_or(0);
    started_ = true;
}

void Session::begin(const soda_request& request, const DeviceArrays& device, const Condition& condition,
                    double guidance, const Kind& kind, const std::vector<int64_t>& decisions) {
    const Manifest& m = bundle_->manifest();
    open_lanes(kind);
    const size_t count = size_t(latent_count());
    scratch_.assign(count * size_t(m.sampler.state_size), 0.0f);
    const auto initial = device.find("noise_initial"), steps = device.find("noise_steps");
    if (request.noise_initial)
        std::copy_n(request.noise_initial, count, scratch_.begin());
    else if (initial == device.end())
        latent_noise(request.seed, initial_stream, size_t(condition.samples), count / size_t(condition.samples),
                     scratch_.data());
    if (bundle_->tables().count(start_known_table)) keep_known(request, condition.samples, scratch_, count);
    if (kind.start)
        mix_start(bundle_->tables(), request, *kind.start, condition.samples, scratch_, count);
    else
        for (size_t i = 0; i < count; ++i) scratch_[i] *= float(m.sampler.initial_scale);
    for (const Lane& lane : lanes_) {
        Playback& player = lane.playback();
        lane.write(m, scratch_, condition, guidance, decisions);
        if (initial != device.end())
            player.initial_state().copy_from(initial->second.address, int64_t(count) * 4);
        for (const DeviceRows& rows : condition.on_device) rows.write(player.port(rows.input));
        for (size_t program : condition.encoders) player.encode(program);
        player.prepare_request();
    }
    request_ = request;
    noise_on_device_ = steps == device.end() ? nullptr : steps->second.address;
}

// Buffers and bound calls of a request of this kind: those that are there, where the last one was of it.
void Session::open_lanes(const Kind& kind) {
    if (kind_ == kind && !lanes_.empty()) return;
    lanes_.clear();  // free the old buffers before new ones are allocated
    const auto poll = [this] { check_cancelled(); };
    const int64_t batch = kind.apart() ? 1 : kind.samples;
    std::vector<Lane> lanes;
    for (int64_t first = 0; first < kind.samples; first += batch) {
        const PlaybackKind wanted{batch, kind.play, kind.start};
        if (kind.play == Play::adaptive)
            lanes.emplace_back(std::make_unique<AdaptivePlayback>(*bundle_, wanted, kind.vote, poll), first,
                               kind.samples);
        else
            lanes.emplace_back(std::make_unique<Playback>(*bundle_, wanted, poll), first, kind.samples);
    }
    lanes_ = std::move(lanes);
    kind_ = kind;
}

void Session::step(int64_t index) {
    const std::vector<Lane>& players = lanes();
    const Sampler& sampler = bundle_->manifest().sampler;
    if (index != next_step_ || index >= sampler.steps)
        throw RequestError(
            say("step ", index, " cannot run now; next is ", next_step_, " of ", sampler.steps, " steps"));
    check_cancelled();
    try {
        for (const Lane& lane : players) {
            if (sampler.stochastic) write_noise(lane, index);
            lane.playback().run_step(index);
        }
    } catch (...) {
        reset();
        throw;
    }
    next_step_ = index + 1;
    if (request_.progress && request_.progress(request_.progress_user, int32_t(next_step_), int32_t(sampler.steps)))
        cancel();
    if (next_step_ < sampler.steps) return;
    const bool too_late = cancelled_ == current_;
    current_ = 0;
    if (!too_late) return;
    reset();
    throw Cancelled();
}

void Session::write_noise(const Lane& lane, int64_t index) {
    const int64_t count = sample_count(), begin = index * latent_count() + lane.first * count;
    const int64_t bytes = lane.batch() * count * 4;
    Memory& noise = lane.playback().noise();
    if (noise_on_device_) return noise.copy_from(noise_on_device_ + begin * 4, bytes);
    if (request_.noise_steps) return noise.write(request_.noise_steps + begin, bytes);
    for (int64_t i = 0; i < lane.batch(); ++i)
        normal(request_.seed, uint32_t(1 + index), uint32_t(lane.first + i), scratch_.data() + i * count,
               size_t(count));
    noise.write(scratch_.data(), bytes);
}

void Session::run_all() {
    while (next_step_ < bundle_->manifest().sampler.steps) step(next_step_);
}

void Session::latents(float* values, size_t count) {
    const std::vector<Lane>& players = lanes();
    if (!values) throw RequestError("latents is NULL", SODA_REQUEST_ARGUMENT);
    demand_room(count);
    for (const Lane& lane : players)
        lane.playback().state_after(next_step_).read(values + lane.first * sample_count(),
                                                     lane.batch() * sample_count() * 4);
    require_finite("latents", values, latent_count());
}

std::vector<int64_t> Session::decisions() const {
    const std::vector<Lane>& players = lanes();
    if (!players[0].adaptive())
        throw RequestError(
            say("this request plays '", play_name(kind_.play), "'; policy='adaptive' has decisions"));
    std::vector<int64_t> decisions;
    for (size_t i = 0; i < players[0].adaptive()->decisions().size(); ++i)
        for (const Lane& lane : players)
            decisions.insert(decisions.end(), size_t(lane.batch()), lane.adaptive()->decisions()[i]);
    return decisions;
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

std::vector<float> Session::planes(size_t room) {
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
        begin_chunks();
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
        for (const Lane& lane : players) {
            const Memory& made = lane.playback().finish(next_step_);
            made.read(planes.data() + lane.first * element_count(shape), made.bytes());
        }
        require_finite(result_name(m.finish[0].kind), planes.data(), needed);
        return planes;
    }
    latents(planes.data(), planes.size());
    for (float& value : planes) value = std::min(std::max(value / 2 + 0.5f, 0.0f), 1.0f);
    return planes;
}

void Session::begin_chunks() {
    next_chunk_ = 0;
    std::vector<float> values(size_t(latent_count()), 0.0f);
    latents(values.data(), values.size());
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
    if (!index) begin_chunks();
    std::vector<float> planes(size_t(needed), 0.0f);
    make_chunk(index, [&](int64_t sample, const Memory& made, int64_t offset) {
        made.read(planes.data() + sample * part, part * 4, offset);
    });
    require_finite("video", planes.data(), needed);
    next_chunk_ = index + 1;
    return channels_last(planes, shape);
}

std::vector<float> Session::result(size_t room) {
    const Manifest& m = bundle_->manifest();
    std::vector<float> planes = this->planes(room);
    if (!m.finish.empty() && m.finish[0].kind == ResultKind::audio) return planes;
    return channels_last(planes, m.finish.empty() ? m.model.latent_shape : m.finish[0].shape);
}

std::vector<float> Session::pictures(size_t room) {
    const auto& finish = bundle_->manifest().finish;
    if (!finish.empty() && finish[0].kind == ResultKind::audio)
        throw RequestError("this bundle makes audio, which has no colours; take it with soda_result");
    return result(room);
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
    begin_chunks();
    for (int64_t index = 0; index < num_chunks(m); ++index) {
        const ChunkFrames chunk = chunk_frames(m.finish[0], index);
        make_chunk(index, [&](int64_t sample, const Memory& made, int64_t offset) {
            made.copy_to(static_cast<char*>(address) + (sample * shape[0] + chunk.first_frame) * frame,
                         chunk.frames * frame, offset);
        });
    }
}

void Session::reset() {
    started_ = false;
    next_step_ = next_chunk_ = 0;
    current_ = 0;
}

const std::vector<Lane>& Session::lanes() const {
    if (lanes_.empty() || !started_) throw RequestError("no request has been started; start one first");
    return lanes_;
}

}  // namespace soda
