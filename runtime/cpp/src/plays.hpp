// What a request's steps follow, and who decides: judged before anything changes.
#pragma once

#include "automaton.hpp"
#include "soda_runtime.h"

namespace soda {

// The schedule; nothing, so that everything is computed; the policy, as they go.
enum class Play { frozen, full, adaptive };

const char* play_name(Play play);

// vote: of an adaptive play. decisions: [S, samples] actions to take instead of deciding; empty: it decides.
struct JudgedPlay {
    Play play;
    Vote vote = Vote::sample;
    std::vector<int64_t> decisions;
};

// policy: null where the bundle has none. votes_alone: whether samples decide for themselves where the request does not
// say. Raises RequestError.
JudgedPlay judge_play(const soda_request& request, const Policy* policy, int64_t steps, int64_t samples,
                      bool votes_alone);

}  // namespace soda
