// Decisions of policies, for tests/cpp: one case in a line on stdin, one answer in a line on stdout.
//     in:  vote, steps, samples, 1 or 0 (whether it replays), the number of signals; [steps] actions where it replays;
//          [steps, samples, q] signals as words of 32 bits in decimal; the policy.json on what is left of the line
//     out: for each step its action, its variant, and 1 where its signals are looked at
#include <cstring>
#include <iostream>
#include <sstream>

#include "automaton.hpp"

namespace {

void answer(const std::string& line) {
    std::istringstream in(line);
    int vote = 0, replays = 0;
    int64_t steps = 0;
    size_t samples = 0, words = 0;
    in >> vote >> steps >> samples >> replays >> words;
    std::vector<int64_t> replay(replays ? size_t(steps) : 0);
    for (int64_t& action : replay) in >> action;
    std::vector<float> signals(words);
    for (float& value : signals) {
        uint32_t word = 0;
        in >> word;
        std::memcpy(&value, &word, sizeof value);
    }
    std::string text;
    std::getline(in, text);
    const soda::Policy policy = soda::parse_policy(text, "policy.json");
    soda::Automaton automaton(policy, soda::Vote(vote), replay);
    for (int64_t i = 0; i < steps; ++i) {
        const bool needed = automaton.needs_signals(i);
        std::cout << automaton.action() << ' ' << automaton.variant() << ' ' << needed << ' ';
        const float* heard = signals.data() + size_t(i) * samples * policy.held.size();
        automaton.observe(i, needed ? heard : nullptr, samples);
    }
    std::cout << std::endl;
}

}  // namespace

int main() {
    for (std::string line; std::getline(std::cin, line);) answer(line);
}
