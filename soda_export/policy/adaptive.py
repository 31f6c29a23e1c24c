"""A policy as its makers leave it: what a bundle's policy.json and tables hold, and what an eager run follows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from soda_runtime.policy import FORMAT, VERSION, Action, Policy, Rule, policy_text

from ..sampler import SamplerTable, widened_rows

PROGRAM_FILE, TABLES_FILE = "signals.onnx", "policy.safetensors"
COMPUTE = Rule(0, True, 0.0)
"""The next step computes, whatever the signals say."""
FULL = "full"
"""The action that computes everything."""


@dataclass(frozen=True, eq=False)
class AdaptivePolicy:
    """rows: of every action [S, 1 or variants, columns], `full` first. signals: by action, `full` for those that have
    none of their own, [S, 1 or variants, q, 2, 2 n + 1], two forms each. held, root, accumulate, power, max_run, gap,
    rules: as in soda_runtime.policy.Policy. calls: model calls of a run on the calibration samples, their mean; 0 where
    it was not measured."""

    name: str
    own: SamplerTable
    state_size: int
    rows: Mapping[str, NDArray[np.float32]]
    signals: Mapping[str, NDArray[np.float32]]
    rules: tuple[Rule, ...]
    held: tuple[bool, ...]
    root: bool = False
    accumulate: bool = False
    power: int = 0
    max_run: int = 4
    gap: int = 1
    calls: float = 0.0

    @property
    def steps(self) -> int:
        """Of a run."""
        return self.own.steps

    @property
    def content(self) -> str:
        """A hash of all that it does."""
        found = hashlib.sha256(policy_text(self.record()).encode())
        for table in self.tables.values():
            found.update(repr(table.shape).encode() + np.ascontiguousarray(table).tobytes())
        return found.hexdigest()

    def record(self, full: int = 0, skip: int = 1) -> Policy:
        """policy.json. full, skip: numbers of the programs that compute everything and that do not call the model."""
        heard = {name: f"{name if name in self.signals else FULL}-signals" for name in self.rows}
        actions = tuple(Action(name, skip if k else full, name, heard[name]) for k, name in enumerate(self.rows))
        return Policy(
            FORMAT, VERSION, self.name, PROGRAM_FILE, self.held, self.root, self.accumulate, self.power, self.max_run,
            self.gap, actions, self.rules, TABLES_FILE,
        )  # fmt: skip

    def widened(self, state_size: int) -> AdaptivePolicy:
        """The same over a larger state, whose further tensors are neither read nor written."""
        n, m, learned = self.state_size, state_size, self.own.learned_variance
        rows = {
            name: widened_rows(table.reshape(-1, table.shape[2]), n, m, learned).reshape(*table.shape[:2], -1)
            for name, table in self.rows.items()
        }  # fmt: skip
        signals = {}
        for name, forms in self.signals.items():
            wide = signals[name] = np.zeros((*forms.shape[:4], 2 * m + 1), np.float32)
            wide[..., :n], wide[..., m : m + n], wide[..., -1] = forms[..., :n], forms[..., n : 2 * n], forms[..., -1]
        return replace(self, state_size=m, rows=rows, signals=signals)

    def forms(self, action: int, step: int, variant: int) -> NDArray[np.float32]:
        """[q, 2, 2 n + 1], what signals after a step are computed with."""
        name = list(self.rows)[action]
        table = self.signals[name if name in self.signals else FULL][step]
        forms: NDArray[np.float32] = table[variant % len(table)]
        return forms

    @property
    def tables(self) -> dict[str, NDArray[np.float32]]:
        """By the names that policy.json has: [S, V, columns]."""
        heard = {f"{name}-signals": forms.reshape(*forms.shape[:2], -1) for name, forms in self.signals.items()}
        return {**self.rows, **heard}
