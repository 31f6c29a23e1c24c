"""What a request's steps follow, and who decides: judged before anything changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from .automaton import Vote
from .errors import RequestError
from .playback import Play
from .policy import FULL, Policy
from .request import Request
from .values import as_array, brief


@dataclass(frozen=True)
class JudgedPlay:
    """vote: of an adaptive play. decisions: [S, B] actions to take instead of deciding."""

    play: Play
    vote: Vote = "sample"
    decisions: NDArray[np.int64] | None = None


def judge_play(request: Request, policy: Policy | None, steps: int, samples: int, votes_alone: bool) -> JudgedPlay:
    """votes_alone: whether samples decide for themselves where the request does not say. Raises RequestError."""
    play = _play(request, policy)
    if play != "adaptive":
        given = "vote" if request.vote else "decisions" if request.decisions is not None else ""
        if given:
            raise RequestError(f"{given} is for policy='adaptive'; this request plays {play!r}")
        return JudgedPlay(play)
    assert policy is not None
    if request.vote not in ("", *get_args(Vote)):
        raise RequestError(f"vote {brief(request.vote)}: give one of {', '.join(get_args(Vote))}")
    vote: Vote = request.vote or ("sample" if votes_alone else "any")
    if request.decisions is None:
        return JudgedPlay(play, vote)
    return JudgedPlay(play, vote, _decisions(request.decisions, policy, steps, samples, vote))


def _play(request: Request, policy: Policy | None) -> Play:
    if request.policy not in ("", *get_args(Play)):
        raise RequestError(f"policy {brief(request.policy)}: give one of {', '.join(get_args(Play))}")
    if not request.accelerated:
        if request.policy not in ("", "full"):
            raise RequestError(f"accelerated=False computes everything, policy={request.policy!r} does not; give one")
        return "full"
    if request.policy == "adaptive" and policy is None:
        raise RequestError("this bundle has no policy; build it with --policy, or leave policy='adaptive' out")
    if request.policy == "adaptive" and request.start_latents is not None:
        raise RequestError(
            "policy='adaptive' needs the first steps, which a request from latents leaves out; give policy='frozen'"
        )
    if request.policy:
        return request.policy
    return "adaptive" if policy is not None and request.start_latents is None else "frozen"


def _decisions(given: object, policy: Policy, steps: int, samples: int, vote: Vote) -> NDArray[np.int64]:
    array = as_array(given, "decisions")
    if array.dtype.kind not in "iu" or array.shape not in ((steps,), (steps, 1), (steps, samples)):
        found = f"{array.dtype} {list(array.shape)}"
        raise RequestError(f"decisions are {found}, expected whole numbers [{steps}] or [{steps}, {samples}]")
    columns = np.broadcast_to(array.reshape(steps, -1), (steps, samples)).astype(np.int64)
    if columns.min() < 0 or columns.max() >= len(policy.actions):
        raise RequestError(f"decisions: an action is outside 0 .. {len(policy.actions) - 1}")
    if (columns[0] != FULL).any():
        raise RequestError("decisions: step 0 computes everything, its action is 0")
    if vote != "sample" and (columns != columns[:, :1]).any():
        raise RequestError(f"decisions differ between samples, which vote={vote!r} leads together; give vote='sample'")
    longest = max(_longest_run(column) for column in (columns != FULL).T)
    if longest > policy.max_run:
        raise RequestError(f"decisions skip {longest} steps in a row; this policy has {policy.max_run} at most")
    return columns


def _longest_run(skipped: NDArray[np.bool_]) -> int:
    longest = run = 0
    for skips in skipped.tolist():
        run = run + 1 if skips else 0
        longest = max(longest, run)
    return longest
