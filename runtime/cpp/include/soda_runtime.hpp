// soda_runtime for C++17: RAII over the C ABI. Header-only; link libsoda_runtime.
//
//     soda::Bundle bundle("engines/digits-b17-ort");
//     soda::Session session = bundle.session();
//     std::vector<float> latents = session.generate(soda::Request().labels({0, 1, 2, 3}).seed(7));
//     std::vector<uint8_t> pixels = session.images_rgb();
#ifndef SODA_RUNTIME_HPP
#define SODA_RUNTIME_HPP

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "soda_runtime.h"

namespace soda {

// What a call failed with: its message in what(), its code in status().
class RuntimeError : public std::runtime_error {
public:
    RuntimeError(soda_status status, const char* message) : std::runtime_error(message), status_(status) {}
    soda_status status() const noexcept { return status_; }
    soda_status family() const noexcept { return SODA_FAMILY(status_); }

private:
    soda_status status_;
};

inline void check(soda_status status) {
    if (status != SODA_OK) throw RuntimeError(status, soda_last_error());
}

// A request that owns its arrays. Copies are independent.
class Request {
public:
    Request& labels(std::vector<int64_t> values) { return set(labels_, std::move(values)); }
    // values [prompts, max_tokens, embed_width], mask [prompts, max_tokens]; negatives where the bundle has guidance.
    Request& embeds(std::vector<float> values, std::vector<int64_t> mask) {
        set(embeds_, std::move(values));
        return set(mask_, std::move(mask));
    }
    Request& negative_embeds(std::vector<float> values, std::vector<int64_t> mask) {
        set(negative_embeds_, std::move(values));
        return set(negative_mask_, std::move(mask));
    }
    Request& token_ids(std::vector<int64_t> ids, std::vector<int64_t> mask) {
        set(ids_, std::move(ids));
        return set(mask_, std::move(mask));
    }
    Request& negative_token_ids(std::vector<int64_t> ids, std::vector<int64_t> mask) {
        set(negative_ids_, std::move(ids));
        return set(negative_mask_, std::move(mask));
    }
    Request& embeds_file(std::string path) { return set(file_, std::move(path)); }
    // Prompts in UTF-8, one for all samples or one for each, which the library tokenizes; what to steer away from, where
    // the bundle has guidance; and what the second and third text encoder get in place of them, as many: see
    // soda_request.
    Request& prompt(std::string text) { return set(texts_[0], std::vector<std::string>{std::move(text)}); }
    Request& prompts(std::vector<std::string> texts, size_t encoder = 0) {
        return set(texts_.at(encoder), std::move(texts));
    }
    Request& negative_prompt(std::string text) { return set(negative_texts_[0], std::vector<std::string>{std::move(text)}); }
    Request& negative_prompts(std::vector<std::string> texts, size_t encoder = 0) {
        return set(negative_texts_.at(encoder), std::move(texts));
    }
    // Values of one port, by name (soda_port.port): [rows, and its axes], one row for all samples or one for each. Of
    // several tokenizers each one's ids are given so, which may be those of other texts (diffusers' prompt_2).
    Request& input(const std::string& port, std::vector<float> values, int32_t rows = 1) {
        return set_input({port, false}, std::move(values), {}, rows);
    }
    Request& input(const std::string& port, std::vector<int64_t> values, int32_t rows = 1) {
        return set_input({port, false}, {}, std::move(values), rows);
    }
    // The same of the unconditional rows, where the bundle has guidance.
    Request& negative_input(const std::string& port, std::vector<float> values, int32_t rows = 1) {
        return set_input({port, true}, std::move(values), {}, rows);
    }
    Request& negative_input(const std::string& port, std::vector<int64_t> values, int32_t rows = 1) {
        return set_input({port, true}, {}, std::move(values), rows);
    }
    // A port's values in memory of the bundle's CUDA device: see soda_input.
    Request& input_on_device(const std::string& port, const void* address, size_t bytes, int32_t rows = 1,
                             bool negative = false) {
        inputs_[{port, negative}] = {{}, {}, rows, address, bytes};
        return *this;
    }
    // For all samples; with an embeds_file their number must be stated.
    Request& noise(std::vector<float> initial, std::vector<float> steps = {}) {
        set(noise_, std::move(initial));
        return set(noise_steps_, std::move(steps));
    }
    // An input in memory of the bundle's CUDA device, of exactly the array's bytes: see soda_device_array.
    Request& on_device(const std::string& name, const void* address, size_t bytes) {
        device_[name] = {address, bytes};
        return *this;
    }
    // Clean latents [1 or samples, their axes] that the run starts from, at a step or by a strength: see soda_request.
    Request& start_at_step(std::vector<float> latents, int32_t step) {
        has_strength_ = false;
        set(start_step_, step);
        return set(start_latents_, std::move(latents));
    }
    Request& start_with_strength(std::vector<float> latents, double strength) {
        has_strength_ = true;
        set(start_step_, 0);
        set(strength_, strength);
        return set(start_latents_, std::move(latents));
    }
    Request& samples(int32_t count) { return set(samples_, count); }
    Request& seed(uint64_t value) { return set(seed_, value); }
    Request& guidance(double scale) {
        guided_ = true;
        return set(guidance_, scale);
    }
    Request& baseline(bool on = true) { return set(baseline_, on); }
    // "frozen", "adaptive" or "full", and who decides: "sample", "any" or "mean". See soda_request.
    Request& policy(std::string name) { return set(policy_, std::move(name)); }
    Request& vote(std::string name) { return set(vote_, std::move(name)); }
    // [steps], or [steps, samples]: what each step does, as Session::decisions has it, in place of deciding.
    Request& decisions(std::vector<int64_t> actions) { return set(decisions_, std::move(actions)); }
    // Called after every step with steps done and their number; true cancels. It must not throw.
    Request& progress(std::function<bool(int, int)> callback) { return set(progress_, std::move(callback)); }

    // The C struct, valid while this request lives and does not change. Arrays must fit the bundle and one another.
    soda_request c_request(const soda_info& info) const {
        const size_t tokens = static_cast<size_t>(info.max_tokens), width = static_cast<size_t>(info.embed_width);
        // a bundle of labels has no tokens, and says itself what it thinks of prompts
        const size_t ones = mask_.size() + numbers_on_device("token_mask");
        const size_t negative_ones = negative_mask_.size() + numbers_on_device("negative_token_mask");
        const size_t labels = labels_.size() + numbers_on_device("labels");
        const size_t prompts = ones / std::max<size_t>(tokens, 1);
        const size_t negatives = negative_ones / std::max<size_t>(tokens, 1);
        demand(!tokens || ones == prompts * tokens, "token_mask");
        demand(!tokens || negative_ones == negatives * tokens, "negative_token_mask");
        demand(!tokens || embeds_.empty() || embeds_.size() == ones * width, "embeds");
        demand(!tokens || negative_embeds_.empty() || negative_embeds_.size() == negative_ones * width,
               "negative_embeds");
        demand(ids_.empty() || ids_.size() == ones, "token_ids");
        demand(negative_ids_.empty() || negative_ids_.size() == negative_ones, "negative_token_ids");
        size_t given = std::max({labels, prompts, texts_[0].size(), static_cast<size_t>(std::max(samples_, 1))});
        for (const auto& [key, input] : inputs_) given = std::max(given, static_cast<size_t>(input.rows));
        const auto one =
            static_cast<size_t>(info.latent_shape[0] * info.latent_shape[1] * info.latent_shape[2]);
        const size_t starts = start_latents_.size() / one;
        demand(start_latents_.size() == starts * one, "start_latents");
        given = std::max(given, starts);
        const size_t latents = given * one;
        demand(noise_.empty() || (noise_.size() == latents && (file_.empty() || samples_ > 0)), "noise");
        demand(noise_steps_.empty() || noise_steps_.size() == latents * static_cast<size_t>(info.steps),
               "noise of steps");
        soda_request request{};
        request.size = sizeof request;
        request.samples = samples_;
        request.baseline = baseline_;
        request.seed = seed_;
        request.guidance = guidance_;
        request.has_guidance = guided_;
        request.num_labels = static_cast<int32_t>(labels);
        request.labels = data(labels_);
        request.num_prompts = static_cast<int32_t>(prompts);
        request.num_negatives = static_cast<int32_t>(negatives);
        request.embeds = data(embeds_);
        request.negative_embeds = data(negative_embeds_);
        request.token_ids = data(ids_);
        request.negative_token_ids = data(negative_ids_);
        request.token_mask = data(mask_);
        request.negative_token_mask = data(negative_mask_);
        request.embeds_file = file_.empty() ? nullptr : file_.c_str();
        request.prompts = pointers(texts_[0], pointers_[0]);
        request.negative_prompts = pointers(negative_texts_[0], pointers_[1]);
        request.prompts_2 = pointers(texts_[1], pointers_[2]);
        request.negative_prompts_2 = pointers(negative_texts_[1], pointers_[3]);
        request.prompts_3 = pointers(texts_[2], pointers_[4]);
        request.negative_prompts_3 = pointers(negative_texts_[2], pointers_[5]);
        request.num_texts = static_cast<int32_t>(texts_[0].size());
        request.num_negative_texts = static_cast<int32_t>(negative_texts_[0].size());
        for (size_t encoder = 1; encoder < 3; ++encoder) {
            demand(texts_[encoder].empty() || texts_[encoder].size() == texts_[0].size(), "prompts of an encoder");
            demand(negative_texts_[encoder].empty() || negative_texts_[encoder].size() == negative_texts_[0].size(),
                   "negative prompts of an encoder");
        }
        request.noise_initial = data(noise_);
        request.noise_steps = data(noise_steps_);
        request.start_latents = data(start_latents_);
        request.num_start_latents = static_cast<int32_t>(starts);
        request.start_step = start_step_;
        request.has_strength = has_strength_;
        request.strength = strength_;
        request.policy = policy_.c_str();
        request.vote = vote_.c_str();
        request.decisions = data(decisions_);
        request.num_decisions = decisions_.size();
        arrays_.clear();
        for (const auto& [name, array] : device_)
            arrays_.push_back({sizeof(soda_device_array), name.c_str(), array.first, array.second});
        request.device_arrays = data(arrays_);
        request.num_device_arrays = static_cast<int32_t>(arrays_.size());
        named_.clear();
        for (const auto& [key, input] : inputs_) {
            const bool real = !input.real.empty();
            const void* values = real ? static_cast<const void*>(input.real.data()) : input.whole.data();
            const size_t bytes = real ? input.real.size() * sizeof(float) : input.whole.size() * sizeof(int64_t);
            const bool on_device = input.device != nullptr;
            named_.push_back({sizeof(soda_input), key.first.c_str(), key.second, input.rows,
                              on_device ? input.device : values, on_device ? input.device_bytes : bytes, on_device});
        }
        request.inputs = data(named_);
        request.num_inputs = static_cast<int32_t>(named_.size());
        if (progress_) {
            request.progress = [](void* user, int32_t done, int32_t steps) -> int32_t {
                return (*static_cast<const std::function<bool(int, int)>*>(user))(done, steps);
            };
            request.progress_user = const_cast<std::function<bool(int, int)>*>(&progress_);
        }
        return request;
    }

private:
    template <class T, class Value>
    Request& set(T& field, Value&& value) {
        field = std::forward<Value>(value);
        return *this;
    }
    static void demand(bool fits, const char* name) {
        if (!fits) throw RuntimeError(SODA_REQUEST_ARGUMENT, (std::string(name) + " is of another size").c_str());
    }
    template <class T>
    static const T* data(const std::vector<T>& values) {
        return values.empty() ? nullptr : values.data();
    }

    static const char* const* pointers(const std::vector<std::string>& texts, std::vector<const char*>& to) {
        to.clear();
        for (const std::string& text : texts) to.push_back(text.c_str());
        return data(to);
    }

    struct Input {
        std::vector<float> real;  // this one or the next
        std::vector<int64_t> whole;
        int32_t rows;
        const void* device;  // or this
        size_t device_bytes;
    };

    Request& set_input(std::pair<std::string, bool> key, std::vector<float> real, std::vector<int64_t> whole,
                       int32_t rows) {
        inputs_[std::move(key)] = {std::move(real), std::move(whole), rows, nullptr, 0};
        return *this;
    }

    size_t numbers_on_device(const char* name) const {
        const auto found = device_.find(name);
        return found == device_.end() ? 0 : found->second.second / sizeof(int64_t);
    }

    std::vector<int64_t> labels_, ids_, negative_ids_, mask_, negative_mask_, decisions_;
    std::vector<float> embeds_, negative_embeds_, noise_, noise_steps_, start_latents_;
    std::string file_, policy_, vote_;
    std::array<std::vector<std::string>, 3> texts_, negative_texts_;  // of each tokenizer
    mutable std::array<std::vector<const char*>, 6> pointers_;        // the same for the C struct
    std::map<std::string, std::pair<const void*, size_t>> device_;  // address and bytes
    mutable std::vector<soda_device_array> arrays_;                 // the same for the C struct
    std::map<std::pair<std::string, bool>, Input> inputs_;          // by port; true: negative
    mutable std::vector<soda_input> named_;                         // the same for the C struct
    int32_t samples_ = 0, start_step_ = 0;
    uint64_t seed_ = 0;
    double guidance_ = 0, strength_ = 0;
    bool guided_ = false, baseline_ = false, has_strength_ = false;
    std::function<bool(int, int)> progress_;
};

// A prompt whose end the model does not read: see soda_truncation.
struct Truncation {
    std::string field;
    int32_t sample, max_tokens;
    std::string lost;
};

// One thread's player of a bundle, which it keeps alive. cancel() alone may be called from other threads.
class Session {
public:
    Session(soda_session* handle, soda_info info) : handle_(handle, soda_session_close), info_(info) {}

    // Latents [samples, their axes].
    std::vector<float> generate(const Request& request) {
        run(request);
        return latents();
    }
    // The same without a look at the latents, which latents(), images() and to_device() give.
    void run(const Request& request) {
        start(request);
        int32_t next = 0;  // 0, or where the request starts
        check(soda_progress_of(handle_.get(), nullptr, &next));
        for (; next < info_.steps; ++next) step(next);
    }
    // The request is kept here until the next one.
    void start(const Request& request) {
        auto kept = std::make_unique<const Request>(request);  // its place stays where the session is moved
        const soda_request given = kept->c_request(info_);
        check(soda_start(handle_.get(), &given));
        request_ = std::move(kept);
    }
    void step(int32_t index) { check(soda_step(handle_.get(), index)); }
    std::vector<float> latents() {
        return read<float>(info_.latent_axes, info_.latent_rank,
                           [this](float* to, size_t n) { return soda_latents(handle_.get(), to, n); });
    }
    // What the steps so far of an adaptive request did, [steps, samples]: actions of the policy, 0 computed.
    std::vector<int64_t> decisions() const {
        int32_t count = 0, steps = 0;
        check(soda_progress_of(handle_.get(), &count, &steps));
        std::vector<int64_t> actions(static_cast<size_t>(count) * static_cast<size_t>(steps) + 1);
        check(soda_decisions(handle_.get(), actions.data(), actions.size()));
        actions.pop_back();  // was there so that the pointer is never null
        return actions;
    }
    // Prompts of the request in progress that were cut.
    std::vector<Truncation> truncated() const {
        std::vector<Truncation> found;
        soda_truncation each{};
        each.size = sizeof each;
        for (int32_t i = 0; soda_truncated(handle_.get(), i, &each) == SODA_OK; ++i)
            found.push_back({each.field, each.sample, each.max_tokens, each.lost});
        return found;
    }
    // What is made of the latents: see soda_result. Images and video in 0 .. 1, or as bytes 0 .. 255; sound in -1 .. 1.
    std::vector<float> result() {
        return read<float>(info_.result_axes, info_.result_rank,
                           [this](float* to, size_t n) { return soda_result(handle_.get(), to, n); });
    }
    std::vector<uint8_t> result_rgb() {
        return read<uint8_t>(info_.result_axes, info_.result_rank,
                             [this](uint8_t* to, size_t n) { return soda_result_rgb(handle_.get(), to, n); });
    }
    // The clean latents that the latest step's prediction stands for, and what is made of them: see soda_preview.
    std::vector<float> preview() {
        return read<float>(info_.latent_axes, info_.latent_rank,
                           [this](float* to, size_t n) { return soda_preview(handle_.get(), to, n); });
    }
    std::vector<float> preview_result() {
        return read<float>(info_.result_axes, info_.result_rank,
                           [this](float* to, size_t n) { return soda_preview_result(handle_.get(), to, n); });
    }
    std::vector<uint8_t> preview_result_rgb() {
        return read<uint8_t>(info_.result_axes, info_.result_rank,
                             [this](uint8_t* to, size_t n) { return soda_preview_result_rgb(handle_.get(), to, n); });
    }
    // Chunk `index` of a video, in order from 0: see soda_result_chunk. There are info().num_chunks.
    std::vector<float> result_chunk(int32_t index) {
        return read<float>(chunk_axes(index).data(), 4, [this, index](float* to, size_t n) {
            return soda_result_chunk(handle_.get(), index, to, n);
        });
    }
    std::vector<uint8_t> result_chunk_rgb(int32_t index) {
        return read<uint8_t>(chunk_axes(index).data(), 4, [this, index](uint8_t* to, size_t n) {
            return soda_result_chunk_rgb(handle_.get(), index, to, n);
        });
    }
    // Images [samples, height, width, channels] in 0 .. 1, or as bytes 0 .. 255.
    std::vector<float> images() {
        return read<float>(info_.image_shape, 3,
                           [this](float* to, size_t n) { return soda_images(handle_.get(), to, n); });
    }
    std::vector<uint8_t> images_rgb() {
        return read<uint8_t>(info_.image_shape, 3,
                             [this](uint8_t* to, size_t n) { return soda_images_rgb(handle_.get(), to, n); });
    }
    // "latents", "images", "video" or "audio" to memory of the bundle's CUDA device, in its stream: see soda_to_device.
    void to_device(const char* output, void* address, size_t bytes) {
        check(soda_to_device(handle_.get(), output, address, bytes));
    }
    int32_t samples() const {
        int32_t count = 0;
        check(soda_progress_of(handle_.get(), &count, nullptr));
        return count;
    }
    void reset() { check(soda_reset(handle_.get())); }
    void cancel() noexcept { soda_cancel(handle_.get()); }
    soda_session* handle() const noexcept { return handle_.get(); }

private:
    std::array<int64_t, 4> chunk_axes(int32_t index) const {
        const int64_t frames = index ? info_.chunk_frames : info_.first_chunk_frames;
        return {frames, info_.result_axes[1], info_.result_axes[2], info_.result_axes[3]};
    }
    template <class T, class Read>
    std::vector<T> read(const int64_t* axes, int32_t rank, Read from_session) const {
        size_t count = rank ? static_cast<size_t>(samples()) : 0;
        for (int32_t i = 0; i < rank; ++i) count *= static_cast<size_t>(axes[i]);
        std::vector<T> values(count + 1);
        check(from_session(values.data(), values.size()));
        values.pop_back();  // was there so that the pointer is never null
        return values;
    }

    std::unique_ptr<soda_session, void (*)(soda_session*)> handle_;
    soda_info info_;
    std::unique_ptr<const Request> request_;
};

struct OpenOptions {
    std::string backend, device, backends_folder, engine_library;
    int32_t threads = 0;
    void* cuda_stream = nullptr;
    std::vector<std::pair<std::string, double>> loras;  // files and their strengths: see soda_lora
    bool preload = false;  // open all engines at once, those of every size
};

// An opened bundle, for any number of threads.
class Bundle {
public:
    explicit Bundle(const std::string& folder, const OpenOptions& options = {}) : handle_(nullptr, soda_bundle_close) {
        if (soda_abi_version() != SODA_ABI_VERSION)
            throw RuntimeError(SODA_INTERNAL_ERROR, "libsoda_runtime is of another ABI than its header");
        soda_open_options given{};
        given.size = sizeof given;
        given.backend = options.backend.c_str();
        given.device = options.device.c_str();
        given.backends_folder = options.backends_folder.c_str();
        given.engine_library = options.engine_library.c_str();
        given.threads = options.threads;
        given.cuda_stream = options.cuda_stream;
        std::vector<soda_lora> loras;
        for (const auto& [path, strength] : options.loras)
            loras.push_back({sizeof(soda_lora), path.c_str(), strength});
        given.loras = loras.data();
        given.num_loras = static_cast<int32_t>(loras.size());
        given.preload = options.preload;
        soda_bundle* handle = nullptr;
        check(soda_bundle_open(folder.c_str(), &given, &handle));
        handle_.reset(handle);
    }

    // Of the LoRA files that it was opened with, one for each; sessions take them from their next request on.
    void set_lora_strengths(const std::vector<double>& strengths) {
        check(soda_bundle_set_lora_strengths(handle_.get(), strengths.data(), static_cast<int32_t>(strengths.size())));
    }
    // Height and width in pixels of each size, the first being this bundle's as it was opened.
    std::vector<std::pair<int32_t, int32_t>> sizes() const {
        std::vector<std::pair<int32_t, int32_t>> found(static_cast<size_t>(info().num_sizes));
        for (size_t i = 0; i < found.size(); ++i)
            check(soda_bundle_size(handle_.get(), static_cast<int32_t>(i), &found[i].first, &found[i].second));
        return found;
    }
    // The same bundle at one of its sizes, which shares engines and weights with this one.
    Bundle at(int32_t height, int32_t width) const {
        soda_bundle* handle = nullptr;
        check(soda_bundle_at(handle_.get(), height, width, &handle));
        return Bundle(handle);
    }

    soda_info info() const {
        soda_info info{};
        info.size = sizeof info;
        check(soda_bundle_info(handle_.get(), &info));
        return info;
    }
    // Inputs of a request, or outputs (SODA_OUTPUTS).
    std::vector<soda_port> ports(int32_t direction = SODA_INPUTS) const {
        return list<soda_port>(
            [&](int32_t i, soda_port* port) { return soda_bundle_port(handle_.get(), direction, i, port); });
    }
    std::vector<soda_slot> slots() const {
        return list<soda_slot>([&](int32_t i, soda_slot* slot) { return soda_bundle_slot(handle_.get(), i, slot); });
    }
    soda_step_info step(int32_t index) const {
        soda_step_info step{};
        step.size = sizeof step;
        check(soda_bundle_step(handle_.get(), index, &step));
        return step;
    }
    Session session() const {
        soda_session* session = nullptr;
        check(soda_session_open(handle_.get(), &session));
        return Session(session, info());
    }
    soda_bundle* handle() const noexcept { return handle_.get(); }

private:
    explicit Bundle(soda_bundle* handle) : handle_(handle, soda_bundle_close) {}
    // All that a query gives, until it refuses the next index.
    template <class Struct, class Query>
    static std::vector<Struct> list(Query query) {
        std::vector<Struct> found;
        for (;;) {
            Struct next{};
            next.size = sizeof next;
            if (query(static_cast<int32_t>(found.size()), &next) != SODA_OK) return found;
            found.push_back(next);
        }
    }

    std::unique_ptr<soda_bundle, void (*)(soda_bundle*)> handle_;
};

}  // namespace soda

#endif
