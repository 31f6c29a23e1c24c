"""From a map to a plan: budgets, the pruning rule, shared programs. No torch."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

from soda_export.errors import PlanError
from soda_export.lower.lower import lower_plan
from soda_export.models.decisions import COMPUTE
from soda_export.plan.decide import Decisions, decide_sites, spent_flops, take
from soda_export.plan.errors_by_keep import Choices, offered_keeps, tabulate_choices
from soda_export.plan.merge import merge_steps
from soda_export.plan.problem import Problem
from soda_export.plan.solve import PlanOptions, flops_ratio, pruned_share, solve_plan
from tests.plan.problems import TOY as SPEC
from tests.plan.problems import at, random_map


def soda(budget: int, **options: object) -> PlanOptions:
    """Options of the planner `soda`."""
    return PlanOptions(planner="soda", budget=budget, **options)  # type: ignore[arg-type]


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
    def attention(**options: object) -> set[int]:
        plan = solve_plan(random_map(), SPEC, soda(17, flops_ratio=2.3, **options)).plan
        return set(plan.schedule.work[:, at(SPEC, "attn")].flat)

    assert attention() <= {0, COMPUTE}
    assert not attention(prune_attention=True) <= {0, COMPUTE}


def test_none_reuses_everywhere_between_anchors() -> None:
    plan = solve_plan(random_map(), SPEC, soda(17, strategy="none")).plan
    assert (np.delete(plan.schedule.work, list(plan.anchors), axis=0)[:, SPEC.leaves] == 0).all()


def test_the_map_of_another_model_is_refused() -> None:
    other = msgspec.structs.replace(SPEC, hash="1" * 64)
    with pytest.raises(PlanError, match="profile again"):
        solve_plan(random_map(), other, soda(17))


def test_offered_keeps_are_multiples_of_the_quantum() -> None:
    assert offered_keeps(SPEC.sites[1]) == [0, 8, 16, 24, 32, 40, 48, 56]


def test_pruning_spends_no_more_than_its_budget_and_lowers_the_error() -> None:
    renewable = Problem(SPEC, "ddim", 50, 1.5).renewable
    choices = tabulate_choices(random_map(), SPEC, renewable, tuple(range(0, 50, 7)), 2)
    errors = []
    for budget in (0.0, 1e8, 1e9, 4e9):
        choice = decide_sites(choices, budget, 1.0, "efficiency").choice
        assert spent_flops(choices, choice) <= budget
        errors.append(take(choices.error, choice).sum())
    assert errors == sorted(errors, reverse=True)


def made_up_choices(error: np.ndarray, keeps: list[int], flops: list[int], tokens: int) -> Choices:
    """The same offers to each of the sites of an error [T, P, C]."""
    steps, sites, _ = error.shape
    return Choices(
        np.arange(steps), np.array([keeps] * sites), error, np.array([flops] * sites), np.full(sites, tokens)
    )


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
    """Four steps, one site, three choices: no choice within the budget that a step had made is better."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        error = np.sort(rng.random((4, 1, 3)), axis=-1)[..., ::-1].copy()
        choices = made_up_choices(error, [0, 8, 16], [0, 10, 20], 24)
        start = rng.integers(0, 3, (4, 1))
        budget = float(spent_flops(choices, start))
        merged = merge_steps(choices, Decisions(start, 0.0, 0.02), 1, budget)
        assert len(np.unique(merged)) == 1
        assert spent_flops(choices, merged) <= budget
        within = [k for k in np.unique(start) if 4 * choices.flops[0, k] <= budget]
        best = min(float(error[:, 0, k].sum()) for k in within) if within else np.inf
        assert error[:, 0, merged[0, 0]].sum() <= best + 1e-12


def test_a_greedy_merge_is_close_to_the_best_partition_on_small_cases() -> None:
    rng = np.random.default_rng(2)
    ratios = []
    for _ in range(10):
        error = np.sort(rng.random((5, 2, 4)), axis=-1)[..., ::-1].copy()
        choices = made_up_choices(error, [0, 8, 16, 24], [0, 1, 2, 3], 32)
        start = rng.integers(0, 4, (5, 2))
        merged = merge_steps(choices, Decisions(start, 0.0, 0.1), 2, float(start.sum()))
        assert len(np.unique(merged, axis=0)) <= 2
        best = np.inf
        for partition in _partitions(list(range(5))):
            if len(partition) > 2:
                continue
            options = list(itertools.product(range(4), repeat=2))
            for pick in itertools.product(options, repeat=len(partition)):
                cost = sum(len(g) * sum(c) for g, c in zip(partition, pick, strict=True))
                if cost > start.sum():
                    continue
                total = sum(
                    error[g, site, c[site]].sum() for g, c in zip(partition, pick, strict=True) for site in range(2)
                )
                best = min(best, total)
        found = take(choices.error, merged).sum()
        assert found >= best - 1e-9
        ratios.append(found / best)
    assert np.mean(ratios) < 1.25
