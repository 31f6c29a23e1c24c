#include "plays.hpp"

#include <algorithm>

#include "errors.hpp"

namespace soda {
namespace {

constexpr const char* play_names[] = {"frozen", "full", "adaptive"};  // by Play
constexpr const char* vote_names[] = {"sample", "any", "mean"};       // by Vote

// The number of a name among `names`; -1: none is given.
template <size_t count>
int number_of(const char* field, const char* given, const char* const (&names)[count]) {
    const std::string name = given ? given : "";
    if (name.empty()) return -1;
    std::string list;
    for (size_t i = 0; i < count; ++i) {
        if (name == names[i]) return int(i);
        list += say(i ? ", " : "", names[i]);
    }
    throw RequestError(say(field, " ", shown(name, 40), ": give one of ", list));
}

Play play_of(const soda_request& request, const Policy* policy) {
    const int asked = number_of("policy", request.policy, play_names);
    if (request.baseline) {
        if (asked >= 0 && Play(asked) != Play::full)
            throw RequestError(
                say("baseline=1 computes everything, policy='", play_names[asked], "' does not; give one"));
        return Play::full;
    }
    if (asked == int(Play::adaptive) && !policy)
        throw RequestError("this bundle has no policy; build it with --policy, or leave policy='adaptive' out");
    if (asked == int(Play::adaptive) && request.start_latents)
        throw RequestError(
            "policy='adaptive' needs the first steps, which a request from latents leaves out; give policy='frozen'");
    if (asked >= 0) return Play(asked);
    return policy && !request.start_latents ? Play::adaptive : Play::frozen;
}

// [steps, samples] of what the request gives.
std::vector<int64_t> judge_decisions(const soda_request& request, const Policy& policy, int64_t steps, int64_t samples,
                                     Vote vote) {
    const size_t whole = size_t(steps * samples), given = request.num_decisions;
    if (given != whole && given != size_t(steps))
        throw RequestError(say("decisions are ", given, " numbers, expected whole numbers [", steps, "] or [", steps,
                               ", ", samples, "]"));
    const int64_t columns = int64_t(given) / steps, actions = int64_t(policy.actions.size());
    std::vector<int64_t> decisions;
    for (int64_t i = 0; i < steps; ++i)
        for (int64_t b = 0; b < samples; ++b)
            decisions.push_back(request.decisions[i * columns + (columns == 1 ? 0 : b)]);
    if (std::any_of(decisions.begin(), decisions.end(), [&](int64_t each) { return each < 0 || each >= actions; }))
        throw RequestError(say("decisions: an action is outside 0 .. ", actions - 1));
    if (std::any_of(decisions.begin(), decisions.begin() + samples, [](int64_t each) { return each != full_action; }))
        throw RequestError("decisions: step 0 computes everything, its action is 0");
    int64_t longest = 0;
    for (int64_t b = 0; b < samples; ++b) {
        int64_t run = 0;
        for (int64_t i = 0; i < steps; ++i) {
            const int64_t each = decisions[size_t(i * samples + b)];
            if (vote != Vote::sample && each != decisions[size_t(i * samples)])
                throw RequestError(say("decisions differ between samples, which vote='", vote_names[int(vote)],
                                       "' leads together; give vote='sample'"));
            run = each == full_action ? 0 : run + 1;
            longest = std::max(longest, run);
        }
    }
    if (longest > policy.max_run)
        throw RequestError(
            say("decisions skip ", longest, " steps in a row; this policy has ", policy.max_run, " at most"));
    return decisions;
}

}  // namespace

const char* play_name(Play play) {
    return play_names[int(play)];
}

JudgedPlay judge_play(const soda_request& request, const Policy* policy, int64_t steps, int64_t samples,
                      bool votes_alone) {
    const Play play = play_of(request, policy);
    if (play != Play::adaptive) {
        const bool votes = request.vote && *request.vote;
        if (votes || request.decisions || request.num_decisions)
            throw RequestError(say(votes ? "vote" : "decisions", " is for policy='adaptive'; this request plays '",
                                   play_name(play), "'"));
        return {play, Vote::sample, {}};
    }
    const int asked = number_of("vote", request.vote, vote_names);
    const Vote vote = asked >= 0 ? Vote(asked) : votes_alone ? Vote::sample : Vote::any;
    if (!request.decisions && request.num_decisions) throw RequestError("decisions is NULL", SODA_REQUEST_ARGUMENT);
    if (!request.decisions) return {play, vote, {}};
    return {play, vote, judge_decisions(request, *policy, steps, samples, vote)};
}

}  // namespace soda
