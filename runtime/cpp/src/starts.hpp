// A request that starts at a step from given latents: which step that is, its state and its rows of coefficients, and
// which of its steps the cache can serve. BUNDLE.md section 8.4.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "soda_runtime.h"
#include "tensors.hpp"

namespace soda {

using Tables = std::map<std::string, Table>;

// For each step whether it runs the schedule's own program where step `first` is the first: it reads nothing but values
// that such steps wrote, and calls the model: one that does not goes on from predictions, which the rows of a start do
// not remember. The others run the baseline program, which leaves the cache as it is.
std::vector<bool> cached_steps(const Manifest& manifest, int64_t first);

// [steps, columns]: the rows that steps take as `coefficients` where step `first` is the first.
std::vector<float> start_rows(const Manifest& manifest, const Tables& tables, int64_t first);

// The first step, or none where the request begins with noise alone, as an inpainting of strength 1 does. Raises
// RequestError.
std::optional<int64_t> judge_start(const Manifest& manifest, const Tables& tables, const soda_request& request);
// The latents to start from are of these samples. Raises RequestError.
void judge_start_latents(const Manifest& manifest, const soda_request& request, int64_t samples);
// state: its first `count` values are the initial noise of these samples, which become the latents before step `first`.
void mix_start(const Tables& tables, const soda_request& request, int64_t first, int64_t samples,
               std::vector<float>& state, size_t count);
// Puts clean latents and the initial noise where the state of a bundle that inpaints has them: at its end.
void keep_known(const soda_request& request, int64_t samples, std::vector<float>& state, size_t count);

}  // namespace soda
