"""The program table: which step runs which program, and where every cached value lies. programs.json, no torch."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..models.decisions import is_skip
from ..models.identity import ModelIdentity, SamplerIdentity, TokenScore

FORMAT, VERSION = "soda-programs", 4


class Slot(NamedTuple):
    """A cached quantity: one output of a site. age 0 is the latest value, 1 and 2 the ones computed before it.

    Written, as in a bundle: the site's name, `#1` behind it for its second output, `@1` or `@2` for an age.
    """

    site: str
    output: int = 0
    age: int = 0

    @property
    def latest(self) -> Slot:
        """The same quantity's latest value."""
        return Slot(self.site, self.output)

    def __str__(self) -> str:
        return self.site + (f"#{self.output}" if self.output else "") + (f"@{self.age}" if self.age else "")


class SlotLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One value of a slot. shape: of one row. bytes: for one sample, all of its rows, padding included."""

    shape: tuple[int, ...]
    item_bytes: int
    bytes: int


class StepProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one or more steps execute.

    work: [K] as in a Schedule. reads: slots that must hold a value before the step. writes: slots that hold a new one
    after it; a slot in both is updated in place. forecasts: groups of slots that always share their weights; group g
    takes row g of the step's forecast_weights. flops: for one sample.
    """

    work: tuple[int, ...]
    reads: tuple[Slot, ...]
    writes: tuple[Slot, ...]
    forecasts: tuple[tuple[Slot, ...], ...]
    flops: int

    @property
    def skips(self) -> bool:
        """Whether it does not call the model."""
        return is_skip(self.work)

    @property
    def forecast_rows(self) -> dict[Slot, int]:
        """Slot -> its group."""
        return {slot: row for row, group in enumerate(self.forecasts) for slot in group}


class CachedValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One value of a slot: written at step `first`, last read at step `last`, both inclusive."""

    slot: Slot
    first: int
    last: int


class ArenaLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where each value lies. All sizes and offsets are bytes for one sample; a batch of B takes B times as much.

    lower_bound_bytes: the most that is alive at one step. naive_bytes: one place for every slot for the whole run.
    """

    offsets: tuple[int, ...]
    bytes: int
    lower_bound_bytes: int
    naive_bytes: int

    @property
    def gap(self) -> float:
        """How much more than the lower bound it takes, as a share of that."""
        return self.bytes / self.lower_bound_bytes - 1.0 if self.lower_bound_bytes else 0.0

    def __str__(self) -> str:
        return (
            f"{self.bytes / 1e6:.2f} MB a sample, {100 * self.gap:.1f} % above the lower bound of "
            f"{self.lower_bound_bytes / 1e6:.2f}, naive {self.naive_bytes / 1e6:.2f}"
        )


class ProgramTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """programs.json. step_programs: [S] index into programs. baseline: the program that computes everything and
    caches nothing; it serves unaccelerated generation and no step of the plan needs it. forecast_weights: [S][G][3],
    weights of a forecast slot's values of age 0, 1, 2, for each group of the step's program; G is the same for all
    steps. slots: of every slot that a program touches, by its latest value's name. values: in order of `first`;
    arena.offsets follows it. coefficients: the plan's; none where the sampler keeps its own.
    """

    format: str
    version: int
    model: ModelIdentity
    sampler: SamplerIdentity
    guidance: float
    rows: int
    token_score: TokenScore
    plan_hash: str
    flops_ratio: float
    programs: tuple[StepProgram, ...]
    step_programs: tuple[int, ...]
    baseline: int
    forecast_weights: tuple[tuple[tuple[float, float, float], ...], ...]
    slots: dict[str, SlotLayout]
    values: tuple[CachedValue, ...]
    arena: ArenaLayout
    coefficients: tuple[tuple[float, ...], ...] = ()

    @property
    def own_coefficients(self) -> NDArray[np.float32] | None:
        """The plan's coefficients of the sampler [S, columns], if it has any."""
        return np.array(self.coefficients, np.float32) if self.coefficients else None

    @property
    def skips(self) -> list[bool]:
        """Whether each step does not call the model."""
        return [self.programs[index].skips for index in self.step_programs]

    @property
    def num_engines(self) -> int:
        """Programs that the plan's steps use."""
        return len(set(self.step_programs))

    @property
    def num_forecasts(self) -> int:
        """Rows G of a step's forecast weights."""
        return len(self.forecast_weights[0])

    @cached_property
    def offsets_by_step(self) -> list[dict[Slot, int]]:
        """For each step the arena offset of each slot that it reads or writes."""
        begins: dict[int, list[int]] = {}
        for number, value in enumerate(self.values):
            begins.setdefault(value.first, []).append(number)
        history: dict[Slot, list[int]] = {}  # numbers of values, oldest first
        by_step = []
        for step, index in enumerate(self.step_programs):
            found = {slot: history[slot.latest][-1 - slot.age] for slot in self.programs[index].reads}
            for number in begins.get(step, ()):
                slot = self.values[number].slot
                found[slot] = number
                history.setdefault(slot, []).append(number)
            by_step.append({slot: self.arena.offsets[number] for slot, number in found.items()})
        return by_step

    def offsets_at(self, step: int) -> dict[Slot, int]:
        """Arena offset of each slot that a step reads or writes."""
        return self.offsets_by_step[step]


def table_text(table: ProgramTable) -> bytes:
    """programs.json."""
    return msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n"


def read_table(content: bytes, where: str) -> ProgramTable:
    """Read programs.json strictly. Raises PlanError."""
    try:
        table = msgspec.json.decode(content, type=ProgramTable)
    except msgspec.DecodeError as error:
        raise PlanError(f"{where}: not a program table ({error}); run `soda-export build` again") from None
    if (table.format, table.version) != (FORMAT, VERSION):
        raise PlanError(f"{where}: format {table.format!r} version {table.version}, expected version {VERSION}")
    return table
