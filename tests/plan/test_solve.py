"""From a map to a plan: budgets, the pruning rule, shared programs. No torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from soda_export.errors import PlanError
from soda_export.lower.lower import lower_plan
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.spec import DenoiserSpec, LabelCondition
from soda_export.plan.decide import decide_modules, spent_flops, take
from soda_export.plan.errors_by_keep import Choices, offered_keeps, tabulate_choices
from soda_export.plan.merge import merge_steps
from soda_export.plan.sensitivity import FORMAT, MAX_INTERVAL, RATES, VERSION, MapInfo, SensitivityMap
from soda_export.plan.solve import PlanOptions, flops_ratio, pruned_share, solve_plan

SPEC = DenoiserSpec(
    name="toy", family="dit", hash="0" * 64, num_layers=4, modules=("attn", "ff"), num_tokens=64, width=96,
    num_heads=4, ff_width=384, latent_shape=(1, 8, 8), out_channels=1,
    condition=LabelCondition(num_classes=10, null_class=10), output="pixels",
)  # fmt: skip


def soda(budget: int, **options: object) -> PlanOptions:
    """Options of the planner `soda`."""
    return PlanOptions(planner="soda", budget=budget, **options)  # type: ignore[arg-type]


def random_map(steps: int = 50, seed: int = 0) -> SensitivityMap:
    rng = np.random.default_rng(seed)
    base = rng.random((steps, 4, 2, 1)) * 0.02
    reuse = base * np.arange(1, MAX_INTERVAL + 1) ** 1.3
    share = np.array(RATES)
    prune = reuse[..., None] * share ** rng.uniform(1.2, 3.0, (steps, 4, 2, 1, 1))
    for t in range(steps):
        reuse[t, :, :, t:], prune[t, :, :, t:] = np.nan, np.nan
    info = MapInfo(
        FORMAT, VERSION, identify(SPEC), SamplerIdentity("ddim", steps), 1.5, 8, 0, "cosine", "mean"
    )  # fmt: skip
    hidden = np.nan_to_num(reuse.mean(axis=(1, 2)))
    return SensitivityMap(info, reuse, reuse * 0.1, prune, prune * 0.1, hidden)


@pytest.mark.parametrize("ratio", [2.3, 2.5, 2.7])
@pytest.mark.parametrize("strategy", ["efficiency", "literal"])
def test_a_flops_target_is_met_within_two_percent(ratio: float, strategy: str) -> None:
    options = soda(17, flops_ratio=ratio, strategy=strategy)  # type: ignore[arg-type]
    solved = solve_plan(random_map(), SPEC, options)
    assert flops_ratio(solved.plan, SPEC) == pytest.approx(ratio, rel=0.02)
    assert lower_plan(solved.plan, SPEC).flops_ratio == pytest.approx(ratio, rel=0.02)


def test_without_a_target_other_steps_spend_what_soda_published() -> None:
    plan = solve_plan(random_map(), SPEC, soda(18)).plan
    # 18 full steps and 32 of 6.5 %
    assert flops_ratio(plan, SPEC) == pytest.approx(50 / (18 + 32 * 0.065), rel=0.01)
    assert pruned_share(plan) > 0


@pytest.mark.parametrize("budget", [6, 17, 50])
def test_the_budget_is_the_number_of_anchors(budget: int) -> None:
    assert len(solve_plan(random_map(), SPEC, soda(budget)).plan.anchors) == budget


@pytest.mark.parametrize("max_engines", [2, 3, 12])
def test_a_flops_target_is_met_with_few_engines(max_engines: int) -> None:
    options = soda(17, flops_ratio=2.3, max_engines=max_engines)
    assert flops_ratio(solve_plan(random_map(), SPEC, options).plan, SPEC) == pytest.approx(2.3, rel=0.03)


@pytest.mark.parametrize("max_engines", [2, 3, 5, 12])
def test_programs_never_exceed_max_engines(max_engines: int) -> None:
    solved = solve_plan(random_map(), SPEC, soda(17, max_engines=max_engines))
    assert lower_plan(solved.plan, SPEC).num_engines <= max_engines
    assert solved.merge_loss >= -1e-9


def test_more_engines_never_give_up_more_error() -> None:
    losses = [solve_plan(random_map(), SPEC, soda(17, max_engines=e)).merge_loss for e in (2, 4, 8, 40)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0.0


def test_unreachable_ratios_are_refused_with_the_range() -> None:
    with pytest.raises(PlanError, match=r"reach \d\.\d\d to \d\.\d\d"):
        solve_plan(random_map(), SPEC, soda(17, flops_ratio=5.0))
    with pytest.raises(PlanError, match=r"reach \d\.\d\d to \d\.\d\d"):
        solve_plan(random_map(), SPEC, soda(17, flops_ratio=1.01))


def test_attention_is_only_pruned_on_request() -> None:
    off = solve_plan(random_map(), SPEC, soda(17, flops_ratio=2.3)).plan.schedule.kept[:, :, 0]
    assert set(np.unique(off)) <= {0, 64}
    on = solve_plan(random_map(), SPEC, soda(17, flops_ratio=2.3, prune_attention=True)).plan.schedule.kept[:, :, 0]
    assert not set(np.unique(on)) <= {0, 64}


def test_none_reuses_everywhere_between_anchors() -> None:
    plan = solve_plan(random_map(), SPEC, soda(17, strategy="none")).plan
    assert (np.delete(plan.schedule.kept, list(plan.anchors), axis=0) == 0).all()


def test_the_map_of_another_model_is_refused() -> None:
    other = DenoiserSpec(**{**{f: getattr(SPEC, f) for f in SPEC.__struct_fields__}, "hash": "1" * 64})
    with pytest.raises(PlanError, match="profile again"):
        solve_plan(random_map(), other, soda(17))


def test_offered_keeps_are_multiples_of_the_quantum() -> None:
    assert list(offered_keeps(SPEC)) == [0, 8, 16, 24, 32, 40, 48, 56]


def test_pruning_spends_no_more_than_its_budget_and_lowers_the_error() -> None:
    choices = tabulate_choices(random_map(), SPEC, tuple(range(0, 50, 7)), 2)
    prunable = np.array([False, True])
    errors = []
    for budget in (0.0, 1e8, 1e9, 4e9):
        choice = decide_modules(choices, prunable, budget, 1.0, "efficiency").choice
        assert spent_flops(choices, choice) <= budget
        errors.append(take(choices.error, choice).sum())
    assert errors == sorted(errors, reverse=True)


def _partitions(items: list[int]) -> list[list[list[int]]]:
    if not items:
        return [[]]
    first, rest = items[0], items[1:]
    result = []
    for partition in _partitions(rest):
        result.append([[first], *partition])
        for i in range(len(partition)):
            result.append([*partition[:i], [first, *partition[i]], *partition[i + 1 :]])
    return result


def test_merging_two_groups_into_one_picks_the_best_shared_choice() -> None:
    """Four steps, one slot, three choices: the merged choice is the best of those that the steps had made."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        error = np.sort(rng.random((4, 1, 1, 3)), axis=-1)[..., ::-1].copy()
        choices = Choices(np.arange(4), np.array([0, 8, 16]), error, np.array([[0, 10, 20]]), 24)
        start = rng.integers(0, 3, (4, 1, 1))
        price = 0.02
        from soda_export.plan.decide import Decisions

        budget = float(choices.flops[0][start[:, 0, 0]].sum())
        merged = merge_steps(choices, Decisions(start, 0.0, price), np.array([False]), 1, budget)
        assert len(np.unique(merged)) == 1
        offered = np.unique(start)
        within = [k for k in offered if 4 * choices.flops[0][k] <= budget]
        best = min(within, key=lambda k: float(error[:, 0, 0, k].sum()))
        assert error[:, 0, 0, merged[0, 0, 0]].sum() <= error[:, 0, 0, best].sum() + 1e-12


def test_a_greedy_merge_is_close_to_the_best_partition_on_small_cases() -> None:
    rng = np.random.default_rng(2)
    ratios = []
    for _ in range(10):
        error = np.sort(rng.random((5, 2, 1, 4)), axis=-1)[..., ::-1].copy()
        choices = Choices(np.arange(5), np.array([0, 8, 16, 24]), error, np.array([[0, 1, 2, 3]]), 32)
        start = rng.integers(0, 4, (5, 2, 1))
        from soda_export.plan.decide import Decisions

        merged = merge_steps(choices, Decisions(start, 0.0, 0.1), np.array([False]), 2, float(start.sum()))
        assert len(np.unique(merged.reshape(5, -1), axis=0)) <= 2
        best = np.inf
        for partition in _partitions(list(range(5))):
            if len(partition) > 2:
                continue
            options = [
                list(itertools.product(*[np.unique(start[group, slot, 0]) for slot in range(2)]))
                for group in partition
            ]
            for pick in itertools.product(*options):
                cost = sum(len(g) * sum(c) for g, c in zip(partition, pick, strict=True))
                if cost > start.sum():
                    continue
                total = sum(
                    error[g, slot, 0, c[slot]].sum() for g, c in zip(partition, pick, strict=True) for slot in range(2)
                )
                best = min(best, total)
        found = take(choices.error, merged).sum()
        assert found >= best - 1e-9
        ratios.append(found / best)
    assert np.mean(ratios) < 1.25
