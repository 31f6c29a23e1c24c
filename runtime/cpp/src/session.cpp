#include "session.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"
#include "philox.hpp"
#include "starts.hpp"

namespace soda {

int64_t Session::latent_count() const {
    return checked_product(playback_->batch, element_count(bundle_->manifest().model.latent_shape));
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
    bundle_->require_weights();
    started_ = false;  // until everything below is done: a program may fail
    current_ = ++requests_;
    try {
        begin(request, device, condition, guidance, first);
    } catch (...) {
        current_ = 0;
        throw;
    }
    next_step_ = first.value_or(0);
    started_ = true;
}

void Session::begin(const soda_request& request, const DeviceArrays& device, const Condition& condition,
                    double guidance, std::optional<int64_t> first) {
    const Manifest& m = bundle_->manifest();
    const PlaybackKind kind{condition.samples, !request.baseline, first};
    if (!playback_ || !(playback_->kind == kind)) {
        playback_.reset();  // free the old buffers before new ones are allocated
        playback_ = std::make_unique<Playback>(*bundle_, kind, [this] { check_cancelled(); });
    }
    const size_t count = size_t(latent_count());
    scratch_.assign(count * size_t(m.sampler.state_size), 0.0f);
    const auto initial = device.find("noise_initial"), steps = device.find("noise_steps");
    if (request.noise_initial)
        std::copy_n(request.noise_initial, count, scratch_.begin());
    else if (initial == device.end())
        latent_noise(request.seed, initial_stream, size_t(condition.samples), count / size_t(condition.samples),
                     scratch_.data());
    if (bundle_->tables().count(start_known_table)) keep_known(request, condition.samples, scratch_, count);
    if (first)
        mix_start(bundle_->tables(), request, *first, condition.samples, scratch_, count);
    else
        for (size_t i = 0; i < count; ++i) scratch_[i] *= float(m.sampler.initial_scale);
    Memory& state = playback_->state_after(playback_->first);
    state.write(scratch_.data(), int64_t(scratch_.size()) * 4);
    if (initial != device.end()) state.copy_from(initial->second.address, int64_t(count) * 4);
    for (const auto& [name, values] : condition.values)
        if (!values.empty()) playback_->port(name).write(values.data(), int64_t(values.size()));
    for (const DeviceRows& rows : condition.on_device) rows.write(playback_->port(rows.input));
    const float scale = float(guidance);
    playback_->guidance().write(&scale, 4);
    for (size_t program : condition.encoders) playback_->encode(program);
    playback_->prepare_request();
    request_ = request;
    noise_on_device_ = steps == device.end() ? nullptr : steps->second.address;
}

void Session::step(int64_t index) {
    Playback& player = playback();
    const Sampler& sampler = bundle_->manifest().sampler;
    if (index != next_step_ || index >= sampler.steps)
        throw RequestError(
            say("step ", index, " cannot run now; next is ", next_step_, " of ", sampler.steps, " steps"));
    check_cancelled();
    try {
        if (sampler.stochastic) write_noise(index);
        player.run_step(index);
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

void Session::write_noise(int64_t index) {
    const int64_t count = latent_count(), batch = playback_->batch;
    Memory& noise = playback_->noise();
    if (noise_on_device_) return noise.copy_from(noise_on_device_ + index * count * 4, count * 4);
    if (request_.noise_steps) return noise.write(request_.noise_steps + index * count, count * 4);
    latent_noise(request_.seed, uint32_t(1 + index), size_t(batch), size_t(count / batch), scratch_.data());
    noise.write(scratch_.data(), count * 4);
}

void Session::run_all() {
    while (next_step_ < bundle_->manifest().sampler.steps) step(next_step_);
}

void Session::latents(float* values, size_t count) {
    Memory& state = playback().state_after(next_step_);
    if (!values) throw RequestError("latents is NULL", SODA_REQUEST_ARGUMENT);
    demand_room(count);
    state.read(values, latent_count() * 4);
    require_finite("latents", values, latent_count());
}

void Session::require_finite(const std::string& what, const float* values, int64_t count) const {
    const float* wrong = std::find_if_not(values, values + count, [](float value) { return std::isfinite(value); });
    if (wrong == values + count) return;
    const Manifest& m = bundle_->manifest();
    throw EngineError(say(bundle_->folder(), ": ", what, " of sample ", (wrong - values) / (count / playback_->batch),
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
    Playback& player = playback();
    if (m.finish.empty() && !m.model.pixels)
        throw RequestError("this bundle has no decoder, its results are latents; build it with the model's VAE");
    const Sizes& shape = m.finish.empty() ? m.model.latent_shape : m.finish[0].shape;
    const int64_t needed = checked_product(player.batch, element_count(shape));
    if (room < size_t(needed))
        throw RequestError(say("room for ", room, " values, the result has ", needed), SODA_REQUEST_ARGUMENT);
    std::vector<float> planes(size_t(needed), 0.0f);
    if (!m.finish.empty()) {
        const Memory& made = player.finish(next_step_);
        made.read(planes.data(), made.bytes());
        require_finite(result_name(m.finish[0].kind), planes.data(), needed);
        return planes;
    }
    latents(planes.data(), planes.size());
    for (float& value : planes) value = std::min(std::max(value / 2 + 0.5f, 0.0f), 1.0f);
    return planes;
}

std::vector<float> Session::result(size_t room) {
    const Manifest& m = bundle_->manifest();
    std::vector<float> planes = this->planes(room);
    if (!m.finish.empty() && m.finish[0].kind == ResultKind::audio) return planes;
    const Sizes& shape = m.finish.empty() ? m.model.latent_shape : m.finish[0].shape;  // [(frames,) channels, h, w]
    const size_t axes = shape.size(), channels = size_t(shape[axes - 3]),
                 pixels = size_t(shape[axes - 2] * shape[axes - 1]);
    std::vector<float> images(planes.size());
    for (size_t begin = 0; begin < planes.size(); begin += channels * pixels)
        for (size_t channel = 0; channel < channels; ++channel)
            for (size_t pixel = 0; pixel < pixels; ++pixel)
                images[begin + pixel * channels + channel] = planes[begin + channel * pixels + pixel];
    return images;
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
    Playback& player = playback();
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
    const int64_t needed = checked_product(player.batch, element_count(shape) * 4);
    if (bytes < size_t(needed)) refuse("room for ", bytes, " bytes, the ", output, " have ", needed);
    bundle_->backend().judge_address(output, address);
    (latents ? player.state_after(next_step_) : player.finish(next_step_)).copy_to(address, needed);
}

void Session::reset() {
    started_ = false;
    next_step_ = 0;
    current_ = 0;
}

Playback& Session::playback() {
    if (!playback_ || !started_) throw RequestError("no request has been started; start one first");
    return *playback_;
}

}  // namespace soda
