// A playback that decides after each step what the next one does.
#pragma once

#include "playback.hpp"

namespace soda {

// As a Playback, whose steps run what its automaton says. Rows of coefficients are written where programs read them
// before each step; a step that does not compute is bound when it is first taken.
class AdaptivePlayback : public Playback {
public:
    // Of a bundle that has a policy.
    AdaptivePlayback(Bundle& bundle, const PlaybackKind& kind, Vote vote, const std::function<void()>& poll);

    // Before step 0. replay: [steps] actions to take instead of deciding; empty: it decides.
    void begin_decisions(std::vector<int64_t> replay);
    void run_step(int64_t i) override;
    std::vector<float> row_of(int64_t i) const override;
    const std::vector<int64_t>& decisions() const { return decisions_; }  // of the steps so far

private:
    const Call& call_of(int64_t index, int64_t action);
    const float* heard(int64_t index, const std::string& table, int64_t variant);
    Call bind_signals(int64_t first);

    const OpenedPolicy& opened_;
    const Vote vote_;
    Automaton automaton_;
    std::vector<int64_t> decisions_;
    int64_t variant_ = 0;  // of the row that the latest step took
    std::unique_ptr<Memory> signal_row_, signal_;
    std::map<std::pair<int64_t, int64_t>, Call> others_;  // by step and action
    std::optional<Call> listening_[2];                    // by which of the two states comes first
    std::vector<float> heard_;                            // [batch, q]
};

}  // namespace soda
