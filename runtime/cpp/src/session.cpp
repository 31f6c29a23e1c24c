#include "session.hpp"

#include <algorithm>

#include "errors.hpp"
#include "philox.hpp"

namespace soda {

int64_t Session::latent_count() const {
    const Sizes& shape = bundle_->manifest().model.latent_shape;
    return playback_->batch * shape[0] * shape[1] * shape[2];
}

void Session::check_cancelled() {
    const uint64_t current = current_.load(std::memory_order_relaxed);
    if (current == 0 || cancelled_.load(std::memory_order_relaxed) != current) return;
    reset();
    throw Cancelled();
}

void Session::start(const soda_request& request) {
    const Manifest& m = bundle_->manifest();
    const Condition condition = judge_condition(m, request);
    const double guidance = judge_guidance(m, request);
    judge_noise(m, request, condition.samples);
    started_ = false;  // until everything below is done: a program may fail
    current_ = ++requests_;
    try {
        begin(request, condition, guidance);
    } catch (...) {
        current_ = 0;
        throw;
    }
    next_step_ = 0;
    started_ = true;
}

void Session::begin(const soda_request& request, const Condition& condition, double guidance) {
    const Manifest& m = bundle_->manifest();
    const bool accelerated = !request.baseline;
    if (!playback_ || playback_->batch != condition.samples || playback_->accelerated != accelerated) {
        playback_.reset();  // free the old buffers before new ones are allocated
        playback_ = std::make_unique<Playback>(*bundle_, condition.samples, accelerated, [this] { check_cancelled(); });
    }
    const size_t count = size_t(latent_count());
    scratch_.assign(count * size_t(m.sampler.state_size), 0.0f);
    if (request.noise_initial)
        std::copy_n(request.noise_initial, count, scratch_.begin());
    else
        latent_noise(request.seed, initial_stream, size_t(condition.samples), count / size_t(condition.samples),
                     scratch_.data());
    for (size_t i = 0; i < count; ++i) scratch_[i] *= float(m.sampler.initial_scale);
    playback_->state_after(0).write(scratch_.data(), int64_t(scratch_.size()) * 4);
    for (const auto& [name, values] : condition.numbers)
        playback_->request(name).write(values.data(), int64_t(values.size()) * 8);
    if (!condition.embeds.empty())
        playback_->request("embeds").write(condition.embeds.data(), int64_t(condition.embeds.size()) * 4);
    const float scale = float(guidance);
    playback_->guidance().write(&scale, 4);
    if (condition.embeds.empty()) playback_->encode_text();
    playback_->prepare_request();
    request_ = request;
}

void Session::step(int64_t index) {
    Playback& player = playback();
    const Sampler& sampler = bundle_->manifest().sampler;
    if (index != next_step_ || index >= sampler.steps)
        throw RequestError(
            say("step ", index, " cannot run now; next is ", next_step_, " of ", sampler.steps, " steps"));
    check_cancelled();
    if (sampler.stochastic) {
        const int64_t count = latent_count();
        const float* noise = request_.noise_initial ? request_.noise_steps + index * count : scratch_.data();
        if (!request_.noise_initial)
            latent_noise(request_.seed, uint32_t(1 + index), size_t(player.batch), size_t(count / player.batch),
                         scratch_.data());
        player.noise().write(noise, count * 4);
    }
    try {
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

void Session::run_all() {
    while (next_step_ < bundle_->manifest().sampler.steps) step(next_step_);
}

void Session::latents(float* values, size_t count) {
    Memory& state = playback().state_after(next_step_);
    const int64_t needed = latent_count();
    if (!values || count < size_t(needed))
        throw RequestError(say("room for ", count, " floats, the latents have ", needed), SODA_REQUEST_ARGUMENT);
    state.read(values, needed * 4);
}

std::vector<float> Session::images() {
    const Manifest& m = bundle_->manifest();
    Playback& player = playback();
    Sizes shape = m.model.latent_shape;
    std::vector<float> planes;  // [samples, channels, height, width]
    if (!m.finish.empty()) {
        shape = m.finish[0].shape;
        planes = player.image(next_step_);
    } else if (m.model.pixels) {
        planes.resize(size_t(latent_count()));
        latents(planes.data(), planes.size());
        for (float& value : planes) value = std::min(std::max(value / 2 + 0.5f, 0.0f), 1.0f);
    } else {
        throw RequestError("this bundle has no decoder, its results are latents; build it with the model's VAE");
    }
    const size_t channels = size_t(shape[0]), pixels = size_t(shape[1] * shape[2]);
    std::vector<float> images(planes.size());
    for (size_t sample = 0; sample < size_t(player.batch); ++sample)
        for (size_t channel = 0; channel < channels; ++channel)
            for (size_t pixel = 0; pixel < pixels; ++pixel)
                images[(sample * pixels + pixel) * channels + channel] =
                    planes[(sample * channels + channel) * pixels + pixel];
    return images;
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
