// Compiled without contraction into fused multiply-adds: decisions are those of the other runtime, bit for bit.
#include "automaton.hpp"

#include <algorithm>
#include <cmath>

namespace soda {
namespace {

// [samples, q] -> [1, q], summed in the order of the samples.
std::vector<double> mean_of(const std::vector<double>& signals, size_t samples) {
    const size_t count = signals.size() / samples;
    std::vector<double> total(signals.begin(), signals.begin() + int64_t(count));
    for (size_t i = count; i < signals.size(); ++i) total[i % count] += signals[i];
    for (double& each : total) each /= double(samples);
    return total;
}

}  // namespace

Automaton::Automaton(const Policy& policy, Vote vote, std::vector<int64_t> replay)
    : policy_(&policy), vote_(vote), replay_(std::move(replay)) {
    first_heard_ = int64_t(policy.rules.size()) + 1;
    last_heard_ = -1;
    for (size_t i = 0; replay_.empty() && i < policy.rules.size(); ++i) {
        if (policy.rules[i].action == full_action || policy.rules[i].always) continue;
        if (last_heard_ < 0) first_heard_ = std::max<int64_t>(0, int64_t(i) - policy.max_run);
        last_heard_ = int64_t(i);
    }
}

bool Automaton::needs_signals(int64_t step) const {
    const bool held = std::all_of(policy_->held.begin(), policy_->held.end(), [](bool each) { return each; });
    return (action_ == full_action || !held) && first_heard_ <= step && step <= last_heard_;
}

void Automaton::observe(int64_t step, const float* signals, size_t samples) {
    const bool computed = action_ == full_action;
    if (signals) hear(signals, samples, computed);
    if (computed) {
        gap_ = std::min(policy_->gap, std::max<int64_t>(1, step - last_));
        last_ = step;
    }
    run_ = computed ? 0 : run_ + 1;
    if (step >= int64_t(policy_->rules.size()))
        action_ = full_action;
    else if (!replay_.empty())
        action_ = replay_[size_t(step + 1)];
    else
        action_ = skips(policy_->rules[size_t(step)], computed) ? policy_->rules[size_t(step)].action : full_action;
}

void Automaton::hear(const float* signals, size_t samples, bool computed) {
    const size_t count = policy_->held.size();
    std::vector<double> heard(signals, signals + samples * count);
    if (vote_ == Vote::mean) heard = mean_of(heard, samples);
    if (!signals_.empty() && !computed)
        for (size_t i = 0; i < heard.size(); ++i)
            if (policy_->held[i % count]) heard[i] = signals_[i];
    signals_ = std::move(heard);
    total_.resize(signals_.size() / count);
}

std::vector<double> Automaton::values(bool computed) {
    const size_t count = policy_->held.size();
    std::vector<double> values;
    for (size_t i = 0; i < signals_.size() / count; ++i) {
        const double* signals = signals_.data() + i * count;
        double value = signals[0];
        for (size_t k = 1; k < count; ++k) value = k % 2 ? value / signals[k] : value * signals[k];
        if (policy_->root) value = std::sqrt(value);
        if (policy_->accumulate) value = total_[i] = computed ? value : total_[i] + value;
        int64_t factor = 1;  // at most 17^4
        for (int64_t k = 0; k < policy_->power; ++k) factor *= run_ + 1;
        values.push_back(value * double(factor));
    }
    return values;
}

bool Automaton::skips(const Rule& rule, bool computed) {
    const std::vector<double> compared = values(computed);
    if (rule.action == full_action || run_ >= policy_->max_run) return false;
    if (rule.always) return true;
    return !compared.empty() && std::all_of(compared.begin(), compared.end(), [&](double value) {
        return value <= rule.threshold;  // false of what is no number
    });
}

}  // namespace soda
