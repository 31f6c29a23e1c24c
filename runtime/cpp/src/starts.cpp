#include "starts.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"
#include "signature.hpp"

namespace soda {
namespace {

// As pipelines of diffusers have it; those of flows round the first step down, the others the steps that run.
int64_t step_of_strength(double strength, int64_t steps, bool rounds_down) {
    if (!(strength > 0 && strength <= 1))
        throw RequestError(say("strength ", strength, " is not a number above 0, up to 1"));
    const double run = double(steps) * strength;
    const int64_t first = rounds_down ? int64_t(double(steps) - run) : steps - int64_t(run);
    if (first >= steps)
        throw RequestError(say("strength ", strength, " of ", steps, " steps leaves none to run; give ",
                               1.0 / double(steps), " or more"));
    return first;
}

// Whether a program calls the model: it takes what is prepared for that, or touches the cache.
bool calls_model(const Manifest& m, const Program& program) {
    const auto takes = [&](const PreparedTensor& tensor) {
        return std::find(program.inputs.begin(), program.inputs.end(), tensor.name) != program.inputs.end();
    };
    return !program.reads.empty() || !program.writes.empty() || std::any_of(m.tensors.begin(), m.tensors.end(), takes);
}

}  // namespace

std::vector<bool> cached_steps(const Manifest& m, int64_t first) {
    std::vector<std::vector<bool>> there(m.slots.size());  // of each slot's values, oldest first: all writes were made
    std::vector<bool> cached;
    for (size_t i = 0; i < m.steps.size(); ++i) {
        const Program& program = m.programs[size_t(m.steps[i].program)];
        bool runs = int64_t(i) >= first && calls_model(m, program);
        for (const SlotValue& read : program.reads) {
            const std::vector<bool>& values = there[size_t(read.slot)];
            runs = runs && std::all_of(values.end() - 1 - read.age, values.end(), [](bool whole) { return whole; });
        }
        cached.push_back(runs);
        for (const SlotValue& write : program.writes) {
            std::vector<bool>& values = there[size_t(write.slot)];
            const bool update = std::any_of(program.reads.begin(), program.reads.end(), [&](const SlotValue& read) {
                return read.slot == write.slot && read.age == 0;
            });
            if (update)
                values.back() = values.back() && runs;
            else
                values.push_back(runs);
        }
    }
    return cached;
}

std::vector<float> start_rows(const Manifest& manifest, const Tables& tables, int64_t first) {
    std::vector<float> rows = tables.at(coefficient_table(manifest, false)).values;
    const auto found = tables.find(start_coefficients_table);
    if (found == tables.end()) return rows;
    const int64_t steps = manifest.sampler.steps, columns = int64_t(rows.size()) / steps;
    const int64_t width = found->second.shape[1], fresh = std::min(width, steps - first);
    std::copy_n(found->second.values.begin() + first * width * columns, fresh * columns,
                rows.begin() + first * columns);
    return rows;
}

std::optional<int64_t> judge_start(const Manifest& manifest, const Tables& tables, const soda_request& request) {
    if (!request.start_latents) {
        if (request.has_strength || request.start_step || request.num_start_latents)
            throw RequestError("strength and start_step go with start_latents; give them, or leave both out");
        return {};
    }
    const auto levels = tables.find(start_levels_table);
    if (levels == tables.end())
        throw RequestError(say("this bundle cannot start from latents: the sampler ", shown(manifest.sampler.name),
                               " cannot, or an older soda-export built it; build it again, with another --sampler"));
    const int64_t steps = manifest.sampler.steps;
    if (request.has_strength && request.start_step)
        throw RequestError("start_latents: give one of strength and start_step");
    if (request.has_strength && request.strength == 1 && tables.count(start_known_table)) return {};
    if (request.has_strength) return step_of_strength(request.strength, steps, levels->second.values[2] != 0);
    if (request.start_step < 0 || request.start_step >= steps)
        throw RequestError(say("start_step ", request.start_step, " is not one of the steps 0 .. ", steps - 1));
    return request.start_step;
}

void judge_start_latents(const Manifest& manifest, const soda_request& request, int64_t samples) {
    const int64_t rows = request.num_start_latents;
    if (rows != 1 && rows != samples)
        throw RequestError(
            say("start_latents: ", rows, " rows for ", samples, " samples; give one, or one per sample"));
    const int64_t count = checked_product(rows, element_count(manifest.model.latent_shape));
    const auto is_finite = [](float value) { return std::isfinite(value); };
    if (!std::all_of(request.start_latents, request.start_latents + count, is_finite))
        throw RequestError("start_latents: has values that are not finite");
}

void mix_start(const Tables& tables, const soda_request& request, int64_t first, int64_t samples,
               std::vector<float>& state, size_t count) {
    const float* level = tables.at(start_levels_table).values.data() + 3 * first;
    const size_t given = request.num_start_latents == 1 ? count / size_t(samples) : count;
    for (size_t i = 0; i < count; ++i) {
        const float signal = level[0] * request.start_latents[i % given], share = level[1] * state[i];
        state[i] = signal + share;
    }
}

void keep_known(const soda_request& request, int64_t samples, std::vector<float>& state, size_t count) {
    std::copy_n(state.begin(), count, state.end() - int64_t(count));
    if (!request.start_latents) return;
    const size_t given = request.num_start_latents == 1 ? count / size_t(samples) : count;
    for (size_t i = 0; i < count; ++i) state[state.size() - 2 * count + i] = request.start_latents[i % given];
}

}  // namespace soda
