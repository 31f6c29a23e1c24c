// The signals of the steps so far into what the next step does: the automaton that policies share. BUNDLE.md section
// 15.3.
#pragma once

#include "policy.hpp"

namespace soda {

// Who decides in a batch: every sample for itself; all together, and each step that one of them needs is computed; all
// together by the mean of their signals.
enum class Vote { sample, any, mean };

// Decides for samples that take the same steps. Deterministic: IEEE binary64, one operation after the other.
class Automaton {
public:
    // replay: [steps] actions to take instead of deciding; empty: it decides. The policy must outlive the automaton.
    Automaton(const Policy& policy, Vote vote, std::vector<int64_t> replay = {});

    int64_t action() const { return action_; }  // of the next step
    // Which row of a table it takes: by the distance of the last two computed steps and how many were skipped since.
    int64_t variant() const { return (gap_ - 1) * (policy_->max_run + 1) + run_; }
    // Whether the signals after step `step`, the next one, are looked at.
    bool needs_signals(int64_t step) const;
    // Step `step` is done; decide about the next. signals: [samples, q] where they are needed, else null.
    void observe(int64_t step, const float* signals, size_t samples);

private:
    void hear(const float* signals, size_t samples, bool computed);
    std::vector<double> values(bool computed);  // what is compared, one for each vote; none where nothing was heard
    bool skips(const Rule& rule, bool computed);

    const Policy* policy_;
    Vote vote_;
    std::vector<int64_t> replay_;
    int64_t first_heard_, last_heard_;
    int64_t action_ = full_action, run_ = 0, gap_ = 1, last_ = 0;
    std::vector<double> signals_;  // [votes, q]
    std::vector<double> total_;    // [votes]
};

}  // namespace soda
