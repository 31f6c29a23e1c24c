#include "adaptive.hpp"

namespace soda {
namespace {

// The program of the signals is opened, and so checked, before what it reads is allocated.
Bundle& with_signals(Bundle& bundle) {
    bundle.signals_engine();
    return bundle;
}

}  // namespace

AdaptivePlayback::AdaptivePlayback(Bundle& bundle, const PlaybackKind& kind, Vote vote,
                                   const std::function<void()>& poll)
    : Playback(with_signals(bundle), kind, poll),
      opened_(*bundle.policy()),
      vote_(vote),
      automaton_(opened_.policy, vote) {
    const Signature signature = signals_signature(bundle.manifest(), opened_.policy);
    signal_row_ = allocate(signature.inputs.at("signal_row"));
    signal_ = allocate(signature.outputs.at("signal"));
    heard_.resize(size_t(batch) * opened_.policy.held.size());
}

void AdaptivePlayback::begin_decisions(std::vector<int64_t> replay) {
    automaton_ = Automaton(opened_.policy, vote_, std::move(replay));
    decisions_.clear();
}

void AdaptivePlayback::run_step(int64_t i) {
    prepare_window(i);
    const int64_t action = automaton_.action(), variant = automaton_.variant();
    const Action& used = opened_.policy.actions[size_t(action)];
    variant_ = variant;
    write_row(opened_.row(used.table, i, variant));
    call_of(i, action)();
    decisions_.push_back(action);
    automaton_.observe(i, automaton_.needs_signals(i) ? heard(i, used.signals, variant) : nullptr, size_t(batch));
}

std::vector<float> AdaptivePlayback::row_of(int64_t i) const {
    const std::string& table = opened_.policy.actions[size_t(decisions_.back())].table;
    const float* row = opened_.row(table, i, variant_);
    return {row, row + opened_.columns(table)};
}

const Call& AdaptivePlayback::call_of(int64_t index, int64_t action) {
    if (action == full_action) return call_of_step(index);
    const auto key = std::make_pair(index, action);
    const auto known = others_.find(key);
    if (known != others_.end()) return known->second;
    return others_.emplace(key, bind_step(index, size_t(opened_.policy.actions[size_t(action)].program))).first->second;
}

// The signals of the states around a step, [batch, q].
const float* AdaptivePlayback::heard(int64_t index, const std::string& table, int64_t variant) {
    signal_row_->write(opened_.row(table, index, variant), opened_.columns(table) * 4);
    std::optional<Call>& call = listening_[index % 2];
    if (!call) call.emplace(bind_signals(index % 2));
    (*call)();
    signal_->read(heard_.data(), int64_t(heard_.size()) * 4);
    return heard_.data();
}

Call AdaptivePlayback::bind_signals(int64_t first) {
    const Signature signature = signals_signature(bundle_.manifest(), opened_.policy);
    const auto view = [&](const Memory& memory, const Port& port) { return view_of(memory, port, axes_); };
    const Port &state = signature.inputs.at("state"), &row = signature.inputs.at("signal_row");
    return bundle_.signals_engine()->bind("signals",
                                         {{"state", view(state_after(first), state)},
                                          {"state_out", view(state_after(first + 1), state)},
                                          {"signal_row", view(*signal_row_, row)}},
                                         {{"signal", view(*signal_, signature.outputs.at("signal"))}});
}

}  // namespace soda
