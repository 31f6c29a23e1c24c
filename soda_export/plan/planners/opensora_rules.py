"""Published rules for Open-Sora 1.2, 30 steps of RFlow, as their releases have them.

ToCa (arXiv 2410.05317) and DuCa (arXiv 2412.18911), Open-Sora/opensora/models/cache_functions at e84096f and 0a7151b of
Shenyi-Z's repositories: the first three steps are full. From then on attention and MLPs are computed at every third
step, cross-attention at every sixth; in between MLPs compute some tokens, and DuCa skips every third step's blocks.
ToCa gives cross-attention a share of tokens that comes out below 0, so it computes none.

PAB (arXiv 2408.12588), VideoSys at 4cce477: where the timestep is within its range, attention is computed at every
second step among a frame's tokens, every fourth among frames, every sixth to the text; MLPs of the first layers are
reused for two steps behind each of three timesteps. Its release reuses outputs behind their gate, plans here before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import PlanError
from ...models.decisions import COMPUTE, REUSE
from ...models.spec import ModelSpec
from ..problem import Problem, Target
from ..schedule import Schedule

FAMILY = "opensora"
_FULL_FIRST = 3
_PERIODS = {"s_attn": 3, "t_attn": 3, "s_ff": 3, "t_ff": 3, "s_cross": 6, "t_cross": 6}
_FRESH_FF = 0.1 * (1 + 0.33 * 1.5)
_BROADCAST = {"s_attn": 2, "t_attn": 4, "s_cross": 6, "t_cross": 6}
_RANGE = (450, 930)  # timesteps, exclusive
_MLP_LAYERS, _MLP_SKIPS, _MLP_TIMESTEPS = 5, 2, (676, 788, 864)


def plan_toca_opensora(problem: Problem, target: Target, quantize: bool, skips: bool) -> Schedule:
    """ToCa's published schedule, with `skips` DuCa's. quantize: as in toca.py. Raises PlanError for a target."""
    spec = problem.spec
    _check("toca, duca", problem, target)
    work = np.full((problem.steps, len(spec.sites)), COMPUTE, np.int64)
    for kind, period in _PERIODS.items():
        for t in range(_FULL_FIRST, problem.steps):
            if t % period:
                work[t, list(spec.kinds[kind])] = [_between(spec, k, kind, quantize) for k in spec.kinds[kind]]
    if skips and spec.stack is not None:
        last = [t for t in range(_FULL_FIRST, problem.steps) if t % 3 == 2]
        work[last, spec.stack] = REUSE
    return Schedule.of(spec, work)


def plan_pab(problem: Problem, target: Target) -> Schedule:
    """PAB's published schedule. Raises PlanError for a target, other families, and where timesteps are not known."""
    if problem.spec.family != FAMILY:
        raise PlanError(f"--planner pab: published for Open-Sora, not for {problem.spec.family}; use another planner")
    _check("pab", problem, target)
    times = [int(timestep) for timestep in problem.timesteps]
    if not times:
        raise PlanError("--planner pab: goes by timesteps, and the sampler's are not known here; plan in `build`")
    work = np.full((problem.steps, len(problem.spec.sites)), COMPUTE, np.int64)
    kinds = problem.spec.kinds
    for kind, period in _BROADCAST.items():
        reused = [t for t, time in enumerate(times) if t % period and _RANGE[0] < time < _RANGE[1]]
        work[np.ix_(reused, kinds[kind])] = REUSE
    first = [number for kind in ("s_ff", "t_ff") for number in kinds[kind][:_MLP_LAYERS]]
    work[np.ix_(_behind(times), first)] = REUSE
    return Schedule.of(problem.spec, work)


def _behind(times: Sequence[int]) -> list[int]:
    """Steps that follow one of the timesteps of MLPs."""
    starts = [times.index(timestep) for timestep in _MLP_TIMESTEPS if timestep in times]
    followers = {start + k for start in starts for k in range(1, _MLP_SKIPS + 1)}
    return sorted(t for t in followers - set(starts) if t < len(times))


def _between(spec: ModelSpec, number: int, kind: str, quantize: bool) -> int:
    """What a site does on a step that is not full: MLPs compute some tokens, all else is reused."""
    if not kind.endswith("_ff"):
        return REUSE
    site = spec.sites[number]
    count = int(_FRESH_FF * site.tokens)
    return -(-count // site.keep_quantum) * site.keep_quantum if quantize else count


def _check(planner: str, problem: Problem, target: Target) -> None:
    if target.budget or target.flops_ratio:
        what = "published for Open-Sora in one setting"
        raise PlanError(f"--planner {planner}: {what}; leave --budget and --flops-ratio out")
