#include "session.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"
#include "philox.hpp"
#include "starts.hpp"

namespace soda {

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
    std::vector<Given> inputs = list_inputs(m, request, arrays, file);
    TokenizedPrompts prompts = tokenize_prompts(*bundle_, request);
    inputs.insert(inputs.end(), prompts.inputs.begin(), prompts.inputs.end());
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
    const Kind kind{condition.samples, how.play, how.vote, first, bundle_->replaced()->version};
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
    truncated_ = std::move(prompts.truncated);
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
    if (call_back()) cancel();
    if (next_step_ < sampler.steps) return;
    const bool too_late = cancelled_ == current_;
    current_ = 0;
    if (!too_late) return;
    reset();
    throw Cancelled();
}

bool Session::call_back() {
    if (!request_.progress) return false;
    called_back_ = std::this_thread::get_id();
    const int32_t steps = int32_t(bundle_->manifest().sampler.steps);
    const bool cancels = request_.progress(request_.progress_user, int32_t(next_step_), steps) != 0;
    called_back_ = std::thread::id();
    return cancels;
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

void Session::reset() {
    started_ = false;
    next_step_ = next_chunk_ = 0;
    truncated_.clear();
    current_ = 0;
}

const std::vector<Lane>& Session::lanes() const {
    if (lanes_.empty() || !started_) throw RequestError("no request has been started; start one first");
    return lanes_;
}

}  // namespace soda
