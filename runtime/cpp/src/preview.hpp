// The clean sample that the latest step's prediction stands for, from the states around that step. BUNDLE.md, 8.7.
#pragma once

#include "lane.hpp"

namespace soda {

// After step `step` of a lane, the latest one: float32 [batch, *latent_shape]. RequestError where the bundle or the
// sampler cannot say.
std::vector<float> preview_of(const Lane& lane, Bundle& bundle, int64_t step);

}  // namespace soda
