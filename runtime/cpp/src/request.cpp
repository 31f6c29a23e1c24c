#include "request.hpp"

#include <algorithm>
#include <cmath>

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

Condition judge_labels(const Manifest& manifest, const soda_request& request) {
    if (request.embeds || request.token_ids || request.embeds_file || request.num_prompts || request.num_negatives)
        throw RequestError("this bundle is conditioned on class labels; it takes no prompt and no embeddings");
    if (request.num_labels > 0 && !request.labels) throw RequestError("labels is NULL", SODA_REQUEST_ARGUMENT);
    Condition condition;
    condition.samples = count_samples(request.num_labels, request.samples, "labels");
    std::vector<int64_t>& labels = condition.numbers["labels"];
    labels.assign(request.labels, request.labels + request.num_labels);
    for (int64_t label : labels)
        if (label < 0 || label >= manifest.model.label->num_classes)
            throw RequestError(say("label ", label, " is outside 0 .. ", manifest.model.label->num_classes - 1));
    labels.resize(size_t(condition.samples), labels[0]);
    labels.resize(size_t(condition.samples * manifest.rows_per_sample), manifest.model.label->null_class);
    return condition;
}

// Rows of all samples: `given` of them, or one repeated; then the same of the negative ones where there is guidance.
template <class T>
std::vector<T> rows_of(const T* values, int64_t given, const T* negative, int64_t negatives, int64_t width,
                       int64_t samples) {
    std::vector<T> rows;
    rows.reserve(size_t(width * samples * (negative ? 2 : 1)));
    for (int64_t i = 0; i < samples; ++i) {
        const T* row = values + (given == 1 ? 0 : i * width);
        rows.insert(rows.end(), row, row + width);
    }
    for (int64_t i = 0; negative && i < samples; ++i) {
        const T* row = negative + (negatives == 1 ? 0 : i * width);
        rows.insert(rows.end(), row, row + width);
    }
    return rows;
}

template <class T>
void require(const T* pointer, const char* name) {
    if (!pointer) throw RequestError(say(name, " is NULL; the request needs it"), SODA_REQUEST_ARGUMENT);
}

Condition judge_text(const Manifest& manifest, soda_request request) {
    const TextCondition& text = *manifest.model.text;
    if (request.num_labels || request.labels)
        throw RequestError("this bundle is conditioned on text; give embeddings or token ids, not labels");
    if (bool(request.embeds) + bool(request.token_ids) + bool(request.embeds_file) != 1)
        throw RequestError("give one of embeds, embeds_file and token_ids");
    if (request.token_ids && text.tokenizer.empty())
        throw RequestError("this bundle has no text encoder; give embeddings, or build it with one");
    Embeds file;
    if (request.embeds_file) {
        file = read_embeds(request.embeds_file, text);
        request.embeds = file.values.data(), request.token_mask = file.mask.data();
        request.negative_embeds = file.negatives ? file.negative_values.data() : nullptr;
        request.negative_token_mask = file.negatives ? file.negative_mask.data() : nullptr;
        request.num_prompts = int32_t(file.prompts), request.num_negatives = int32_t(file.negatives);
    }
    const bool guided = manifest.rows_per_sample == 2;
    Condition condition;
    condition.samples = count_samples(request.num_prompts, request.samples, "prompts");
    require(request.token_mask, "token_mask");
    if (guided && request.num_negatives != 1 && request.num_negatives != condition.samples)
        throw RequestError(say("this bundle was built with guidance: ", request.num_negatives, " negative prompts for ",
                               condition.samples, " samples; give one, or one per sample"));
    if (!guided && request.token_ids && request.num_negatives)
        throw RequestError("this bundle was built without guidance; a negative prompt has no effect in it");
    if (guided) require(request.negative_token_mask, "negative_token_mask");
    const int64_t tokens = text.max_tokens, prompts = request.num_prompts, negatives = request.num_negatives;
    const auto gather = [&](auto* values, auto* negative, int64_t width) {
        return rows_of(values, prompts, guided ? negative : nullptr, negatives, width, condition.samples);
    };
    require_mask(request.token_mask, prompts * tokens, "token_mask");
    if (guided) require_mask(request.negative_token_mask, negatives * tokens, "negative_token_mask");
    condition.numbers["attention_mask"] = gather(request.token_mask, request.negative_token_mask, tokens);
    if (request.token_ids) {
        if (guided) require(request.negative_token_ids, "negative_token_ids");
        condition.numbers["input_ids"] = gather(request.token_ids, request.negative_token_ids, tokens);
        return condition;
    }
    const int64_t width = tokens * text.embed_width;
    if (guided) require(request.negative_embeds, "negative_embeds");
    require_finite(request.embeds, prompts * width, "embeds");
    if (guided) require_finite(request.negative_embeds, negatives * width, "negative_embeds");
    condition.embeds = gather(request.embeds, request.negative_embeds, width);
    return condition;
}

}  // namespace

Condition judge_condition(const Manifest& manifest, const soda_request& request) {
    if (request.num_labels < 0 || request.num_prompts < 0 || request.num_negatives < 0)
        throw RequestError("a negative count of labels or prompts", SODA_REQUEST_ARGUMENT);
    return manifest.model.label ? judge_labels(manifest, request) : judge_text(manifest, request);
}

double judge_guidance(const Manifest& manifest, const soda_request& request) {
    if (!request.has_guidance) return manifest.guidance;
    if (!(std::abs(request.guidance) <= max_guidance)) throw RequestError("guidance is not a number within float32");
    if (manifest.rows_per_sample == 1 && request.guidance != manifest.guidance)
        throw RequestError(say("this bundle was built without guidance; guidance ", request.guidance,
                               " has no effect in it; build one with --guidance above 1"));
    return request.guidance;
}

void judge_noise(const Manifest& manifest, const soda_request& request, int64_t samples) {
    if (!request.noise_initial) {
        if (request.noise_steps) throw RequestError("noise_steps needs noise_initial");
        return;
    }
    const Sizes& shape = manifest.model.latent_shape;
    const int64_t count = samples * shape[0] * shape[1] * shape[2];
    require_finite(request.noise_initial, count, "noise_initial");
    if (!manifest.sampler.stochastic) return;
    if (!request.noise_steps) throw RequestError("this sampler adds noise at every step; give noise_steps");
    for (int64_t i = 0; i < manifest.sampler.steps; ++i)
        require_finite(request.noise_steps + i * count, count, "noise_steps");
}

}  // namespace soda
