"""What follows a step, against a plain transcription of the format's text (BUNDLE.md, 15.3), one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from soda_runtime.automaton import Automaton, Vote
from soda_runtime.policy import FORMAT, VERSION, Action, Policy, Rule

STEPS = 12


def policy_of(rules: list[Rule], held: tuple[bool, ...], **settings: object) -> Policy:
    actions = tuple(Action(name, number, name, "heard") for number, name in enumerate(("full", "skip", "other")))
    given = {"root": False, "accumulate": False, "power": 0, "max_run": 3, "gap": 2} | settings
    return Policy(
        FORMAT, VERSION, "drawn", "signals.onnx", held, actions=actions, rules=tuple(rules), tables="t",
        **given,  # type: ignore[arg-type]
    )  # fmt: skip


NUMBERS = st.sampled_from([0.0, 0.25, 1.0, 3.0, -1.0, math.inf, math.nan]) | st.floats(-2, 4, width=32)
RULES = st.lists(
    st.builds(Rule, st.integers(0, 2), st.booleans(), st.floats(-1, 4)), min_size=STEPS - 1, max_size=STEPS - 1
)
POLICIES = st.builds(
    policy_of, RULES, st.lists(st.booleans(), min_size=1, max_size=4).map(tuple), root=st.booleans(),
    accumulate=st.booleans(), power=st.integers(0, 4), max_run=st.integers(1, 4), gap=st.integers(1, 8),
)  # fmt: skip


@given(POLICIES, st.integers(1, 3), st.sampled_from(["any", "mean"]), st.data())
@settings(max_examples=100, deadline=None)
def test_decisions_are_those_of_the_formats_text(policy: Policy, samples: int, vote: Vote, data: st.DataObject) -> None:
    """Where signals are needed, too: what the automaton does not ask for can change nothing."""
    shape = (STEPS, samples, len(policy.held))
    numbers = data.draw(st.lists(NUMBERS, min_size=math.prod(shape), max_size=math.prod(shape)))
    signals = np.array(numbers, np.float32).reshape(shape)
    automaton, taken, variants = Automaton(policy, vote), [], []
    for step in range(STEPS):
        taken.append(automaton.action)
        variants.append(automaton.variant)
        automaton.observe(step, signals[step].tolist() if automaton.needs_signals(step) else None)
    assert (taken, variants) == transcription(policy, vote, signals)


@given(POLICIES, st.integers(0, STEPS - 1))
@settings(max_examples=100, deadline=None)
def test_a_run_leaves_nothing_to_the_next(policy: Policy, step: int) -> None:
    signals = np.random.default_rng(step).uniform(-1, 2, (STEPS, 1, len(policy.held))).astype(np.float32)

    def run(automaton: Automaton, steps: int) -> list[int]:
        found = []
        for i in range(steps):
            found.append(automaton.action)
            automaton.observe(i, signals[i].tolist() if automaton.needs_signals(i) else None)
        return found

    automaton = Automaton(policy)
    run(automaton, step)
    automaton.reset()
    assert run(automaton, STEPS) == run(Automaton(policy), STEPS)


def test_given_decisions_are_taken_and_no_signals_asked_for() -> None:
    policy = policy_of([Rule(1, False, 1.0)] * (STEPS - 1), (False,))
    wanted = np.array([0, 1, 2, 0, 0, 1, 0, 0, 2, 2, 2, 0])
    automaton, taken = Automaton(policy, replay=wanted), []
    for step in range(STEPS):
        taken.append(automaton.action)
        assert not automaton.needs_signals(step)
        automaton.observe(step, None)
    assert taken == wanted.tolist()


@pytest.mark.parametrize(("rules", "asked"), [
    ([Rule(0, True, 0.0)] * 11, []), ([Rule(1, True, 0.0)] * 11, []),
    ([*[Rule(0, True, 0.0)] * 6, *[Rule(1, False, -1.0)] * 2, *[Rule(1, True, 0.0)] * 3], [3, 4, 5, 6, 7]),
])  # fmt: skip
def test_signals_are_asked_for_only_where_a_test_may_look_at_them(rules: list[Rule], asked: list[int]) -> None:
    automaton, found = Automaton(policy_of(rules, (False,))), []
    for step in range(STEPS):
        needed = automaton.needs_signals(step)
        found += [step] * needed
        automaton.observe(step, [[1.0]] if needed else None)
    assert found == asked


def transcription(policy: Policy, vote: Vote, signals: NDArray[np.float32]) -> tuple[list[int], list[int]]:
    tests = [i for i, rule in enumerate(policy.rules) if rule.action and not rule.always]
    action, r, g, last, total = 0, 0, 1, 0, [0.0] * signals.shape[1]
    s: list[list[float]] = []
    taken, variants = [], []
    for i in range(STEPS):
        taken.append(action)
        variants.append((g - 1) * (policy.max_run + 1) + r)
        computed = action == 0
        in_reach = bool(tests) and tests[0] - policy.max_run <= i <= tests[-1]
        if in_reach and (computed or not all(policy.held)):
            w = [[float(number) for number in sample] for sample in signals[i]]
            if vote == "mean":
                w = [[_sum(column) / len(w) for column in zip(*w, strict=True)]]
            keep = bool(s) and not computed
            s = [
                [old if keep and held else new for old, new, held in zip(before, now, policy.held, strict=True)]
                for before, now in zip(s or w, w, strict=True)
            ]
        if computed:
            g, last, r = min(policy.gap, max(1, i - last)), i, 0
        else:
            r += 1
        if i == STEPS - 1:
            break
        values = []
        for b, sample in enumerate(s):
            value = sample[0]
            for k, signal in enumerate(sample[1:]):
                value = _divide(value, signal) if k % 2 == 0 else value * signal
            if policy.root:
                value = math.sqrt(value) if value >= 0 else math.nan
            if policy.accumulate:
                value = total[b] = value if computed else total[b] + value
            values.append(value * (r + 1) ** policy.power)
        rule = policy.rules[i]
        allowed = rule.always or (bool(s) and all(value <= rule.threshold for value in values))
        action = rule.action if rule.action and r < policy.max_run and allowed else 0
    return taken, variants


def _sum(numbers: tuple[float, ...]) -> float:
    total = numbers[0]
    for number in numbers[1:]:
        total += number
    return total


def _divide(a: float, b: float) -> float:
    if b:
        return a / b
    if a == 0 or math.isnan(a):
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)
