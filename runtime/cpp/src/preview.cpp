#include "preview.hpp"

#include <algorithm>

#include "errors.hpp"

namespace soda {
namespace {

constexpr int64_t known_tensors = 2;  // that an inpainting bundle has at the end of its state

// A, b and c of the first n of `size` tensors.
struct Row {
    std::vector<double> a, b, c;

    Row(const float* row, int64_t n, int64_t size) {
        for (int64_t j = 0; j < n; ++j)
            for (int64_t k = 0; k < n; ++k) a.push_back(row[1 + j * size + k]);
        const float* rest = row + 1 + size * size;
        b.assign(rest, rest + n);
        c.assign(rest + size, rest + size + n);
    }
};

// Weights of the tensors of the state before a step, of those after it, and of its noise.
struct Form {
    std::vector<double> before, after;
    double noise = 0;
};

double squares(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value * value;
    return sum;
}

// row: what the step took as `coefficients`; own: the sampler's. levels: shares of latents and prediction. No weights
// where noise of unknown size hides the prediction.
Form form_of(const float* row, const float* own, const float* levels, int64_t n, const Sampler& sampler) {
    Row map(row, n, sampler.state_size);
    if (squares(map.b) == 0) {  // the model was not called: the prediction with which the sampler itself comes to z'
        map = Row(own, n, sampler.state_size);
        std::fill(map.b.begin() + 1, map.b.end(), 0.0);
    }
    for (size_t j = 0; sampler.learned_variance && j < map.b.size(); ++j)
        if (map.c[j] != 0) map.b[j] = 0;
    const double length = squares(map.b);
    Form form;
    if (length == 0) return form;
    form.before.assign(size_t(n), 0.0);
    form.before[0] = levels[0];
    for (size_t j = 0; j < size_t(n); ++j) {
        form.after.push_back(levels[1] * map.b[j] / length);
        for (size_t k = 0; k < size_t(n); ++k) form.before[k] -= form.after[j] * map.a[j * size_t(n) + k];
        form.noise -= form.after[j] * map.c[j];
    }
    return form;
}

std::vector<float> floats_of(const Memory& memory, int64_t count) {
    std::vector<float> values(size_t(count), 0.0f);
    memory.read(values.data(), count * 4);
    return values;
}

// The mask of each element of a sample's latents, from that of port `mask`, [1 or channels, ...].
double mask_at(const std::vector<float>& mask, int64_t mask_count, int64_t sample, int64_t element) {
    return mask[size_t(sample * mask_count + element % mask_count)];
}

}  // namespace

std::vector<float> preview_of(const Lane& lane, Bundle& bundle, int64_t step) {
    const Manifest& m = bundle.manifest();
    const auto& tables = bundle.tables();
    const auto found = tables.find(preview_levels_table);
    if (found == tables.end())
        throw RequestError(
            "this bundle has no previews: an older soda-export built it, or its sampler mixes no clean sample with "
            "noise; build it again, with another --sampler");
    Playback& player = lane.playback();
    const int64_t size = m.sampler.state_size, sample = element_count(m.model.latent_shape);
    const int64_t count = lane.batch() * sample;
    const auto known = tables.find(start_known_table);
    const bool inpaints = known != tables.end();
    const int64_t n = inpaints ? size - known_tensors : size;
    const float* own = tables.at(coefficient_table(m, false)).values.data() + step * scalar_count(m);
    const std::vector<float> row = player.row_of(step);
    const Form form = form_of(row.data(), own, found->second.values.data() + 2 * step, n, m.sampler);
    if (form.after.empty())
        throw RequestError(say("no preview after step ", step, ": ", m.sampler.name,
                               " takes the size of its noise from the model, which hides the prediction; build with "
                               "another --sampler, e.g. ddim"));
    const std::vector<float> before = floats_of(player.state_after(step), size * count),
                             after = floats_of(player.state_after(step + 1), size * count);
    std::vector<float> noise, mask;
    if (form.noise != 0) noise = floats_of(player.noise(), count);
    int64_t mask_count = 1;
    if (inpaints) {
        mask_count = element_count(find_port(m, mask_port)->shape);
        mask = floats_of(player.port(mask_port), lane.batch() * mask_count);
    }
    std::vector<float> preview(size_t(count), 0.0f);
    for (int64_t i = 0; i < count; ++i) {
        const auto at = [&](const std::vector<float>& state, int64_t tensor) {
            return double(state[size_t(tensor * count + i)]);
        };
        double clean = noise.empty() ? 0 : form.noise * noise[size_t(i)];
        for (int64_t k = 0; k < n; ++k) clean += form.before[size_t(k)] * at(before, k);
        for (int64_t j = 1; j < n; ++j) clean += form.after[size_t(j)] * at(after, j);
        if (inpaints) {
            const float* shares = known->second.values.data() + 2 * step;
            const double drawn = mask_at(mask, mask_count, i / sample, i % sample);
            const double kept = shares[0] * at(before, size - 2) + shares[1] * at(before, size - 1);
            clean = drawn * clean + form.after[0] * (at(after, 0) - (1 - drawn) * kept) +
                    (1 - drawn) * at(before, size - 2);
        } else {
            clean += form.after[0] * at(after, 0);
        }
        preview[size_t(i)] = float(clean);
    }
    return preview;
}

}  // namespace soda
