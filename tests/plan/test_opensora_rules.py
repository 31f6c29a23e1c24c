"""The published schedules for Open-Sora, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from soda_export.errors import PlanError
from soda_export.models.decisions import COMPUTE, IDLE, REUSE
from soda_export.models.spec import STACK, ModelSpec, Site
from soda_export.plan.planners import PLANNERS
from soda_export.plan.problem import Problem, Target
from tests.plan.problems import DIGITS, check_history, ratio_of

KINDS, LAYERS, TOKENS = ("s_attn", "s_cross", "s_ff", "t_attn", "t_cross", "t_ff"), 7, 720
FULL = [0, 1, 2, *range(3, 30, 3)]


def opensora() -> ModelSpec:
    """Seven layers of XL width at 144p, 17 frames."""
    flops = {"s_attn": 16.3e9, "t_attn": 15.3e9, "s_cross": 9.7e9, "t_cross": 9.7e9, "s_ff": 30.6e9, "t_ff": 30.6e9}
    sites = []
    for layer in range(LAYERS):
        for kind in KINDS:
            each = int(flops[kind]) // TOKENS
            renewable = not kind.endswith("attn")
            sites.append(
                Site(
                    f"{layer}.{kind}", kind, layer / (LAYERS - 1), ((TOKENS, 1152),), each * TOKENS, 0,
                    TOKENS if renewable else 0, (0, each) if renewable else (0, 0), "stack",
                )
            )  # fmt: skip
    sites.append(Site("stack", STACK, 1.0, ((TOKENS, 1152),), 10**9))
    return replace(DIGITS, family="opensora", sites=tuple(sites))


def problem(timesteps: tuple[float, ...] = ()) -> Problem:
    return Problem(opensora(), "rflow", 30, 7.0, timesteps=timesteps)


def shifted(shift: float) -> tuple[float, ...]:
    return tuple(1000 * shift * t / (1 + (shift - 1) * t) for t in (1 - np.arange(30) / 30).tolist())


def test_toca_has_12_full_steps_and_cross_attention_half_as_often() -> None:
    case = problem()
    work, kinds = PLANNERS["toca"](case, Target()).work, case.spec.kinds
    for kind in KINDS:
        computed = np.flatnonzero((work[:, list(kinds[kind])] == COMPUTE).all(axis=1)).tolist()
        assert computed == ([0, 1, 2, 6, 12, 18, 24] if kind.endswith("cross") else FULL)
    between = [t for t in range(30) if t not in FULL]
    assert set(work[np.ix_(between, kinds["s_attn"])].ravel()) == {REUSE}
    assert set(work[np.ix_(between, kinds["t_ff"])].ravel()) == {112}  # of 0.1495 * 720 = 107, in tiles of 16


def test_duca_skips_every_third_step_and_is_the_faster_one() -> None:
    case = problem()
    toca, duca = (PLANNERS[name](case, Target()) for name in ("toca", "duca"))
    skipped = np.flatnonzero(duca.work[:, case.spec.stack] == REUSE).tolist()
    assert skipped == [5, 8, 11, 14, 17, 20, 23, 26, 29]
    assert (duca.work[skipped, :-1] == IDLE).all()
    others = [t for t in range(30) if t not in skipped]
    assert np.array_equal(duca.work[others], toca.work[others])
    for schedule in (toca, duca):
        check_history(schedule)
    assert 2.0 < ratio_of(toca, case) < ratio_of(duca, case) < 2.6


def test_pab_broadcasts_within_its_timesteps() -> None:
    case = problem(shifted(4.84))
    work, kinds = PLANNERS["pab"](case, Target()).work, case.spec.kinds
    inside = [t for t, time in enumerate(case.timesteps) if 450 < int(time) < 930]
    for kind, period in (("s_attn", 2), ("t_attn", 4), ("s_cross", 6), ("t_cross", 6)):
        reused = np.flatnonzero((work[:, list(kinds[kind])] == REUSE).all(axis=1)).tolist()
        assert reused == [t for t in inside if t % period]
    assert (work[:, list(kinds["s_ff"])] == COMPUTE).all()  # none of its timesteps of MLPs is met
    assert 1.1 < ratio_of(PLANNERS["pab"](case, Target()), case) < 1.4


def test_pab_reuses_mlps_of_five_layers_behind_its_timesteps() -> None:
    times = list(shifted(4.84))
    times[13] = 864.5
    case = problem(tuple(times))
    work, kinds = PLANNERS["pab"](case, Target()).work, case.spec.kinds
    for kind in ("s_ff", "t_ff"):
        assert np.argwhere(work[:, list(kinds[kind])] == REUSE).tolist() == [[t, k] for t in (14, 15) for k in range(5)]


@pytest.mark.parametrize("name", ["toca", "duca", "pab"])
def test_other_targets_and_families_are_refused(name: str) -> None:
    for target in (Target(12), Target(flops_ratio=2.0)):
        with pytest.raises(PlanError, match="in one setting; leave --budget"):
            PLANNERS[name](problem(shifted(4.84)), target)
    if name == "pab":
        with pytest.raises(PlanError, match="published for Open-Sora, not for dit"):
            PLANNERS[name](Problem(DIGITS, "ddim", 50, 1.5), Target())
        with pytest.raises(PlanError, match="goes by timesteps"):
            PLANNERS[name](problem(), Target())
