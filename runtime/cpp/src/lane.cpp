#include "lane.hpp"

namespace soda {

void Lane::write(const Manifest& manifest, const std::vector<float>& state, const Condition& condition,
                 double guidance, const std::vector<int64_t>& decisions) const {
    write_samples(playback_->initial_state(), state.data(), int64_t(state.size()) * 4, manifest.sampler.state_size);
    for (const auto& [name, values] : condition.values)
        if (!values.empty())
            write_samples(playback_->port(name), values.data(), int64_t(values.size()), manifest.rows_per_sample);
    const float scale = float(guidance);
    playback_->guidance().write(&scale, 4);
    auto* adaptive = dynamic_cast<AdaptivePlayback*>(playback_.get());
    if (!adaptive) return;
    std::vector<int64_t> own;
    for (size_t i = size_t(first); i < decisions.size(); i += size_t(size)) own.push_back(decisions[i]);
    adaptive->begin_decisions(std::move(own));
}

// values: `groups` of all samples, each of which has its part for this lane.
void Lane::write_samples(Memory& to, const void* values, int64_t bytes, int64_t groups) const {
    if (batch() == size) return to.write(values, bytes);
    const int64_t sample = bytes / groups / size, part = sample * batch();
    for (int64_t group = 0; group < groups; ++group)
        to.write(static_cast<const char*>(values) + (group * size + first) * sample, part, group * part);
}

}  // namespace soda
