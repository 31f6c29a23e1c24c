"""The signals of the steps so far into what the next step does: the automaton that policies share."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .policy import FULL, Policy

Vote = Literal["sample", "any", "mean"]
"""Who decides in a batch: every sample for itself; all together, and each step that one of them needs is computed; all
together by the mean of their signals."""


class Automaton:
    """Decides for samples that take the same steps. Deterministic: IEEE binary64, one operation after the other.

    action: what the next step does, an index into the policy's actions. Before step 0 that is FULL. variant: which row
    of a table it takes.
    """

    def __init__(self, policy: Policy, vote: Vote = "sample", replay: NDArray[np.int64] | None = None) -> None:
        """vote: of several samples; `sample` is for one. replay: [S] actions to take instead of deciding."""
        self._policy, self._vote, self._replay = policy, vote, replay
        tests = [i for i, rule in enumerate(policy.rules) if rule.action != FULL and not rule.always]
        listens = bool(tests) and replay is None
        self._first_heard = max(0, tests[0] - policy.max_run) if listens else len(policy.rules) + 1
        self._last_heard = tests[-1] if listens else -1
        self.reset()

    def reset(self) -> None:
        """Before step 0 of a run."""
        self.action = FULL
        self._run, self._gap, self._last = 0, 1, 0
        self._signals: NDArray[np.float64] | None = None  # [B, q]
        self._total: NDArray[np.float64] | float = 0.0

    @property
    def variant(self) -> int:
        """By the distance of the last two computed steps and how many have been skipped since."""
        return (self._gap - 1) * (self._policy.max_run + 1) + self._run

    def needs_signals(self, step: int) -> bool:
        """Whether the signals after step `step`, the next one, are looked at."""
        is_new = self.action == FULL or not all(self._policy.held)
        return is_new and self._first_heard <= step <= self._last_heard

    def observe(self, step: int, signals: NDArray[np.float32] | None) -> None:
        """Step `step` is done; decide about the next. signals: [B, q] where they are needed."""
        policy, computed = self._policy, self.action == FULL
        if signals is not None:
            heard = signals.astype(np.float64)
            if self._vote == "mean":
                heard = _mean(heard)
            if self._signals is None or computed:
                self._signals = heard
            else:
                self._signals = np.where(policy.held, self._signals, heard)
        if computed:
            self._gap, self._last = min(policy.gap, max(1, step - self._last)), step
        self._run = 0 if computed else self._run + 1
        if step + 1 > len(policy.rules):
            self.action = FULL
            return
        value = self._value(computed)
        if self._replay is not None:
            self.action = int(self._replay[step + 1])
            return
        rule = policy.rules[step]
        skips = rule.action != FULL and self._run < policy.max_run
        if skips and not rule.always:  # a value that is no number compares false
            skips = value is not None and bool((value <= rule.threshold).all())
        self.action = rule.action if skips else FULL

    def _value(self, computed: bool) -> NDArray[np.float64] | None:
        """What is compared, [B]; None where nothing has been heard."""
        policy, signals = self._policy, self._signals
        if signals is None:
            return None
        with np.errstate(all="ignore"):
            value = signals[:, 0]
            for k in range(1, signals.shape[1]):
                value = value / signals[:, k] if k % 2 else value * signals[:, k]
            if policy.root:
                value = np.sqrt(value)
            if policy.accumulate:
                self._total = value if computed else self._total + value
                value = np.asarray(self._total)
            return value * float((self._run + 1) ** policy.power)


def _mean(signals: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B, q] -> [1, q], summed in the order of the samples."""
    total = signals[:1].copy()
    for row in signals[1:]:
        total += row
    return total / len(signals)
