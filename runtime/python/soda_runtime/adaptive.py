"""A playback that decides after each step what the next one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .automaton import Automaton, Vote
from .backends import Memory
from .backends.host import HostMemory
from .loading import Call
from .opened import OpenedBundle
from .playback import Playback, view_of
from .policy import FULL, SIGNAL, SIGNAL_ROW, OpenedPolicy, signals_signature
from .signature import STATE, STATE_OUT


class AdaptivePlayback(Playback):
    """As a Playback of one (bundle, batch), whose steps run what its automaton says.

    Rows of coefficients are written where programs read them before each step; a step that does not compute is bound
    when it is first taken.
    """

    def __init__(self, bundle: OpenedBundle, opened: OpenedPolicy, batch: int, vote: Vote) -> None:
        self._opened, self._vote = opened, vote
        self.automaton = Automaton(opened.policy, vote)
        self.decisions: list[int] = []
        self._latest = ("", 0)  # table and variant of the row that the latest step took
        self._others: dict[tuple[int, int], Call] = {}  # step and action
        self._listening: dict[int, Call] = {}  # which of the two states comes first
        super().__init__(bundle, batch, "adaptive")

    def begin_decisions(self, replay: NDArray[np.int64] | None) -> None:
        """Before step 0. replay: [S] actions to take instead of deciding."""
        self.automaton = Automaton(self._opened.policy, self._vote, replay)
        self.decisions = []

    @property
    def calls(self) -> Sequence[Call]:
        return [partial(self._run, index) for index in range(len(self.steps))]

    def row_of(self, index: int) -> NDArray[np.float32]:
        name, variant = self._latest
        table = self._opened.tables[name][index]
        row: NDArray[np.float32] = table[variant % len(table)]
        return row

    def memories(self) -> list[Memory]:
        return [*super().memories(), self._coefficients, self._signal_row, self._signal]

    def close(self) -> None:
        self._others, self._listening = {}, {}
        super().close()

    def _bind(self) -> None:
        policy = self._opened.policy
        self._bundle.signals_engine(policy)  # opened, and so checked, before what it reads is allocated
        super()._bind()
        signature = signals_signature(self._bundle.manifest, policy)
        self._rows_of = [
            (self._as_written(action.table), self._as_written(action.signals)) for action in policy.actions
        ]
        self._signal_row = self._allocate_bytes(self._rows_of[FULL][1].shape[-1])
        self._signal = self._allocate(signature.outputs[SIGNAL])
        self._read_signal = _reader_of(self._signal)

    def _run(self, index: int) -> None:
        automaton = self.automaton
        action, variant = automaton.action, automaton.variant
        rows, of_signals = self._rows_of[action]
        self._latest = self._opened.policy.actions[action].table, variant
        listens = automaton.needs_signals(index)
        self._coefficients.write(rows[index, variant])
        if listens:  # before the step: after it, this code is out of the processor's cache
            self._signal_row.write(of_signals[index, variant])
        self._call_of(index, action)()
        self.decisions.append(action)
        if listens:
            self._listen(index % 2)()
        automaton.observe(index, self._heard() if listens else None)

    def _as_written(self, table: str) -> NDArray[np.uint8]:
        """The bytes of every row that programs take: [S, variants, bytes]."""
        rows = self._padded(self._opened.tables[table]).view(np.uint8)
        return np.broadcast_to(rows, (len(rows), self._opened.policy.variants, rows.shape[-1]))

    def _heard(self) -> list[Sequence[float]]:
        """[batch, q]"""
        values, count = self._read_signal(), len(self._opened.policy.held)
        return [values[i : i + count] for i in range(0, len(values), count)]

    def _rows(self) -> NDArray[Any]:
        """One row, written anew before each step."""
        full = self._opened.policy.actions[FULL]
        return self._opened.tables[full.table][0, :1]

    def _row_offset(self, index: int) -> int:
        return 0

    def _make_loop(self) -> Call | None:
        return None  # what a step does is known when the one before it is done

    def _call_of(self, index: int, action: int) -> Call:
        if action == FULL:
            return self.steps[index]
        if (index, action) not in self._others:
            self._others[index, action] = self._bind_step(index, self._opened.policy.actions[action].program)
        return self._others[index, action]

    def _listen(self, first: int) -> Call:
        if first not in self._listening:
            signature = signals_signature(self._bundle.manifest, self._opened.policy)
            places = {
                STATE: self.state_after(first), STATE_OUT: self.state_after(first + 1), SIGNAL_ROW: self._signal_row
            }
            self._listening[first] = self._bundle.signals_engine(self._opened.policy).bind(
                "signals",
                {name: view_of(places[name], port, self._axes) for name, port in signature.inputs.items()},
                {SIGNAL: view_of(self._signal, signature.outputs[SIGNAL], self._axes)},
            )
        return self._listening[first]


def _reader_of(memory: Memory) -> Callable[[], Sequence[float]]:
    """What gives the float32 values in memory: on the host without numpy, which copies."""
    if isinstance(memory, HostMemory):
        return memory.bytes.data.cast("f").tolist
    return lambda: memory.read().data.cast("f").tolist()
