"""The signals of the steps so far into what the next step does: the automaton that policies share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .policy import FULL, Policy

Vote = Literal["sample", "any", "mean"]
"""Who decides in a batch: every sample for itself; all together, and each step that one of them needs is computed; all
together by the mean of their signals."""


class Automaton:
    """Decides for samples that take the same steps. Deterministic: IEEE binary64, one operation after the other.

    Its numbers are plain floats: between two steps of an engine nothing is in the processor's cache, and a call into
    numpy takes 20 times as long as it does in a loop of its own.

    action: what the next step does, an index into the policy's actions. Before step 0 that is FULL. variant: which row
    of a table it takes.
    """

    def __init__(self, policy: Policy, vote: Vote = "sample", replay: NDArray[np.int64] | None = None) -> None:
        """vote: of several samples; `sample` is for one. replay: [S] actions to take instead of deciding."""
        self._policy, self._takes_mean = policy, vote == "mean"
        self._replay: list[int] | None = None if replay is None else replay.tolist()
        self._all_held = all(policy.held)
        tests = [i for i, rule in enumerate(policy.rules) if rule.action != FULL and not rule.always]
        listens = bool(tests) and replay is None
        self._first_heard = max(0, tests[0] - policy.max_run) if listens else len(policy.rules) + 1
        self._last_heard = tests[-1] if listens else -1
        self.reset()

    def reset(self) -> None:
        """Before step 0 of a run."""
        self.action = self.variant = FULL
        self._run, self._gap, self._last = 0, 1, 0
        self._signals: Sequence[Sequence[float]] = ()  # [B, q]
        self._totals: list[float] = []  # [B]

    def needs_signals(self, step: int) -> bool:
        """Whether the signals after step `step`, the next one, are looked at."""
        return self._first_heard <= step <= self._last_heard and (self.action == FULL or not self._all_held)

    def observe(self, step: int, signals: Sequence[Sequence[float]] | None) -> None:
        """Step `step` is done; decide about the next. signals: [B, q], of float32, where they are needed."""
        policy, computed = self._policy, self.action == FULL
        if signals is not None:
            self._hear(signals, computed)
        if computed:
            self._gap, self._last, self._run = min(policy.gap, max(1, step - self._last)), step, 0
        else:
            self._run += 1
        # by the distance of the last two computed steps and how many have been skipped since
        self.variant = (self._gap - 1) * (policy.max_run + 1) + self._run
        if step >= len(policy.rules):
            self.action = FULL
        elif self._replay is not None:
            self.action = self._replay[step + 1]
        else:
            self.action = policy.rules[step].action if self._skips(step, computed) else FULL

    def _hear(self, signals: Sequence[Sequence[float]], computed: bool) -> None:
        heard = _mean(signals) if self._takes_mean else signals
        if self._signals and not computed:
            held = self._policy.held
            heard = [
                [old if keep else new for old, new, keep in zip(before, now, held, strict=True)]
                for before, now in zip(self._signals, heard, strict=True)
            ]
        self._signals = heard
        if not self._totals:
            self._totals = [0.0] * len(heard)

    def _skips(self, step: int, computed: bool) -> bool:
        rule, policy = self._policy.rules[step], self._policy
        may = rule.action != FULL and self._run < policy.max_run
        values = self._values(computed) if policy.accumulate or (may and not rule.always) else []
        if not may or rule.always:
            return may
        return bool(values) and all(value <= rule.threshold for value in values)  # what is no number compares false

    def _values(self, computed: bool) -> list[float]:
        """What is compared, [B]; nothing where nothing has been heard."""
        policy, values = self._policy, []
        factor = float((self._run + 1) ** policy.power)
        for sample, signals in enumerate(self._signals):
            value = signals[0]
            for k in range(1, len(signals)):
                value = _divide(value, signals[k]) if k % 2 else value * signals[k]
            if policy.root:
                value = math.sqrt(value) if value >= 0.0 else math.nan
            if policy.accumulate:
                value = self._totals[sample] = value if computed else self._totals[sample] + value
            values.append(value * factor)
        return values


def _divide(a: float, b: float) -> float:
    """As IEEE 754 has it, where Python raises."""
    if b != 0.0:
        return a / b
    return math.nan if a == 0.0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _mean(signals: Sequence[Sequence[float]]) -> list[list[float]]:
    """[B, q] -> [1, q], summed in the order of the samples."""
    totals = list(signals[0])
    for row in signals[1:]:
        for k, value in enumerate(row):
            totals[k] += value
    return [[total / len(signals) for total in totals]]
