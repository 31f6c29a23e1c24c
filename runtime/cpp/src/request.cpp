#include "request.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "errors.hpp"

namespace soda {
namespace {

constexpr int64_t max_samples = 65536;
constexpr double max_guidance = 3.0e38;

void require_finite(const float* values, int64_t count, const char* name) {
    if (!std::all_of(values, values + count, [](float value) { return std::isfinite(value); }))
        throw RequestError(say(name, ": has values that are not finite"));
}

void require_mask(const int64_t* mask, int64_t count, const char* name) {
    if (!std::all_of(mask, mask + count, [](int64_t value) { return value == 0 || value == 1; }))
        throw RequestError(say(name, ": has values other than 0 and 1"));
}

int64_t count_samples(int64_t given, int64_t wanted, const char* what) {
    if (wanted < 0 || wanted > max_samples)
        throw RequestError(say("samples=", wanted, " is outside 0 .. ", max_samples));
    if (given > max_samples) throw RequestError(say(given, " ", what, " are more than ", max_samples));
    const int64_t samples = given == 1 ? std::max<int64_t>(1, wanted) : given;
    if (given < 1 || (wanted && wanted != samples))
        throw RequestError(
            say("samples=", wanted, " and ", given, " ", what, " do not agree; give one, or one per sample"));
    return samples;
}

// An array of a request: on the host, on the device, or not given.
template <class T>
struct Input {
    const char* name;
    const T* host;
    const DeviceArray* device;

    explicit operator bool() const { return host || device; }
};

template <class T>
Input<T> find_input(const char* name, const T* host, const DeviceArrays& arrays) {
    const auto found = arrays.find(name);
    return {name, host, found == arrays.end() ? nullptr : &found->second};
}

template <class T>
void require(const Input<T>& input) {
    if (!input) throw RequestError(say(input.name, " is NULL; the request needs it"), SODA_REQUEST_ARGUMENT);
}

void require_room(const char* name, const DeviceArray& array, int64_t bytes) {
    if (array.bytes < bytes)
        throw RequestError(say("device array '", name, "' has ", array.bytes, " bytes, the request takes ", bytes),
                           SODA_REQUEST_ARGUMENT);
}

// Rows of a request's input, one part of the samples after the other. A part has a row for each sample, or one for all.
template <class T>
class Rows {
public:
    Rows(Condition& condition, const char* input, int64_t width)
        : condition_(condition), input_(input), width_(width) {}

    void add(const Input<T>& part, int64_t given) {
        const int64_t samples = condition_.samples;
        if (part.device) {
            require_room(part.name, *part.device, checked_product(given * int64_t(sizeof(T)), width_));
            condition_.on_device.push_back(
                {input_, count_ / width_, part.device->address, given, samples, width_ * int64_t(sizeof(T))});
        }
        count_ += samples * width_;
        if (part.device) return;
        values_.resize(size_t(count_ - samples * width_));  // zeros for what is on the device
        for (int64_t i = 0; i < samples; ++i) {
            const T* row = part.host + (given == 1 ? 0 : i * width_);
            values_.insert(values_.end(), row, row + width_);
        }
    }

    // Empty where everything is on the device.
    std::vector<T> values() {
        if (!values_.empty()) values_.resize(size_t(count_));
        return std::move(values_);
    }

private:
    Condition& condition_;
    const char* input_;
    int64_t width_, count_ = 0;
    std::vector<T> values_;
};

Condition judge_labels(const Manifest& manifest, const soda_request& request, const DeviceArrays& device) {
    for (const auto& [name, array] : device)
        if (name != "labels" && name.compare(0, 5, "noise") != 0)
            throw RequestError("this bundle is conditioned on class labels; it takes no prompt and no embeddings");
    if (request.embeds || request.token_ids || request.embeds_file || request.num_prompts || request.num_negatives)
        throw RequestError("this bundle is conditioned on class labels; it takes no prompt and no embeddings");
    const auto labels = find_input("labels", request.labels, device);
    if (request.num_labels > 0) require(labels);
    Condition condition;
    condition.samples = count_samples(request.num_labels, request.samples, "labels");
    for (int64_t i = 0; labels.host && i < request.num_labels; ++i)
        if (request.labels[i] < 0 || request.labels[i] >= manifest.model.label->num_classes)
            throw RequestError(
                say("label ", request.labels[i], " is outside 0 .. ", manifest.model.label->num_classes - 1));
    Rows<int64_t> rows(condition, "labels", 1);
    rows.add(labels, request.num_labels);
    if (manifest.rows_per_sample == 2) rows.add({"", &manifest.model.label->null_class, nullptr}, 1);
    condition.numbers["labels"] = rows.values();
    return condition;
}

Condition judge_text(const Manifest& manifest, soda_request request, const DeviceArrays& device) {
    const TextCondition& text = *manifest.model.text;
    if (request.num_labels || request.labels || device.count("labels"))
        throw RequestError("this bundle is conditioned on text; give embeddings or token ids, not labels");
    auto embeds = find_input("embeds", request.embeds, device);
    auto negative_embeds = find_input("negative_embeds", request.negative_embeds, device);
    const auto ids = find_input("token_ids", request.token_ids, device);
    const auto negative_ids = find_input("negative_token_ids", request.negative_token_ids, device);
    auto mask = find_input("token_mask", request.token_mask, device);
    auto negative_mask = find_input("negative_token_mask", request.negative_token_mask, device);
    if (bool(embeds) + bool(ids) + bool(request.embeds_file) != 1)
        throw RequestError("give one of embeds, embeds_file and token_ids");
    if (ids && text.tokenizer.empty())
        throw RequestError("this bundle has no text encoder; give embeddings, or build it with one");
    Embeds file;
    if (request.embeds_file) {
        if (negative_embeds.device || mask.device || negative_mask.device)
            throw RequestError("embeds_file has all embeddings and masks; give none of them on the device");
        file = read_embeds(request.embeds_file, text);
        embeds.host = file.values.data(), mask.host = file.mask.data();
        negative_embeds.host = file.negatives ? file.negative_values.data() : nullptr;
        negative_mask.host = file.negatives ? file.negative_mask.data() : nullptr;
        request.num_prompts = int32_t(file.prompts), request.num_negatives = int32_t(file.negatives);
    }
    const bool guided = manifest.rows_per_sample == 2;
    Condition condition;
    condition.samples = count_samples(request.num_prompts, request.samples, "prompts");
    require(mask);
    if (guided && request.num_negatives != 1 && request.num_negatives != condition.samples)
        throw RequestError(say("this bundle was built with guidance: ", request.num_negatives, " negative prompts for ",
                               condition.samples, " samples; give one, or one per sample"));
    if (!guided && ids && request.num_negatives)
        throw RequestError("this bundle was built without guidance; a negative prompt has no effect in it");
    if (guided) require(negative_mask);
    const int64_t tokens = text.max_tokens, prompts = request.num_prompts, negatives = request.num_negatives;
    const auto gather = [&](const char* input, const auto& positive, const auto& negative, int64_t width) {
        Rows<std::decay_t<decltype(*positive.host)>> rows(condition, input, width);
        rows.add(positive, prompts);
        if (guided) rows.add(negative, negatives);
        return rows.values();
    };
    if (mask.host) require_mask(mask.host, prompts * tokens, "token_mask");
    if (guided && negative_mask.host) require_mask(negative_mask.host, negatives * tokens, "negative_token_mask");
    condition.numbers["attention_mask"] = gather("attention_mask", mask, negative_mask, tokens);
    if (ids) {
        if (guided) require(negative_ids);
        condition.numbers["input_ids"] = gather("input_ids", ids, negative_ids, tokens);
        return condition;
    }
    const int64_t width = tokens * text.embed_width;
    if (guided) require(negative_embeds);
    if (embeds.host) require_finite(embeds.host, prompts * width, "embeds");
    if (guided && negative_embeds.host) require_finite(negative_embeds.host, negatives * width, "negative_embeds");
    condition.embeds = gather("embeds", embeds, negative_embeds, width);
    return condition;
}

}  // namespace

Condition judge_condition(const Manifest& manifest, const soda_request& request, const DeviceArrays& device) {
    if (request.num_labels < 0 || request.num_prompts < 0 || request.num_negatives < 0)
        throw RequestError("a negative count of labels or prompts", SODA_REQUEST_ARGUMENT);
    return manifest.model.label ? judge_labels(manifest, request, device) : judge_text(manifest, request, device);
}

double judge_guidance(const Manifest& manifest, const soda_request& request) {
    if (!request.has_guidance) return manifest.guidance;
    if (!(std::abs(request.guidance) <= max_guidance)) throw RequestError("guidance is not a number within float32");
    if (manifest.rows_per_sample == 1 && request.guidance != manifest.guidance)
        throw RequestError(say("this bundle was built without guidance; guidance ", request.guidance,
                               " has no effect in it; build one with --guidance above 1"));
    return request.guidance;
}

void judge_noise(const Manifest& manifest, const soda_request& request, const DeviceArrays& device, int64_t samples) {
    const auto initial = find_input("noise_initial", request.noise_initial, device);
    const auto steps = find_input("noise_steps", request.noise_steps, device);
    if (!initial) {
        if (steps) throw RequestError("noise_steps needs noise_initial");
        return;
    }
    const Sizes& shape = manifest.model.latent_shape;
    const int64_t count = checked_product(samples, shape[0] * shape[1] * shape[2]);
    if (initial.device) require_room(initial.name, *initial.device, checked_product(count, 4));
    if (initial.device && manifest.sampler.initial_scale != 1)
        throw RequestError(say("noise_initial lies on the device, and this sampler multiplies it by ",
                               manifest.sampler.initial_scale, "; give it on the host"));
    if (initial.host) require_finite(initial.host, count, "noise_initial");
    if (!manifest.sampler.stochastic) return;
    if (!steps) throw RequestError("this sampler adds noise at every step; give noise_steps");
    if (steps.device)
        require_room(steps.name, *steps.device, checked_product(checked_product(count, 4), manifest.sampler.steps));
    for (int64_t i = 0; steps.host && i < manifest.sampler.steps; ++i)
        require_finite(steps.host + i * count, count, "noise_steps");
}

}  // namespace soda
