"""policy.json: the rules by which a run decides after each step what the next one does, read and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError
from .files import REBUILD
from .manifest import VERSION as FORMAT_VERSION
from .manifest import Manifest
from .side_files import read_side_file
from .signature import BATCH_AXIS, STATE, STATE_OUT, Port, Signature, program_files, scalar_count
from .strict_json import encode
from .tensors import read_tensors

POLICY_NAME, FORMAT, VERSION = "policy.json", "soda-policy", 1
SIGNAL, SIGNAL_ROW = "signal", "signal_row"
"""What the program of the signals gives, and what it takes beside the states around a step."""
FULL = 0
"""The action that computes everything; every policy's first."""
MOST_SIGNALS, MOST_ACTIONS, MOST_RUN, MOST_GAP = 4, 8, 16, 8
_MAX_BYTES, _MAX_TABLES_BYTES, _MAX_VALUE, _MOST_POWER = 16 << 20, 1 << 30, 1e18, 4
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Rule:
    """What follows a step. action: FULL computes the next one. Another action is taken where the value that is
    compared is at most `threshold`, or, with `always`, whatever it is; otherwise the next step computes."""

    action: int
    always: bool
    threshold: float


@dataclass(frozen=True)
class Action:
    """What a step may do: one of the bundle's programs, with the rows of a table [S, variants, columns]; and the table
    of the rows that signals after such a step are computed with, which actions may share."""

    name: str
    program: int
    table: str
    signals: str


@dataclass(frozen=True)
class Policy:
    """policy.json, whole. signals: the file of the program that computes what is compared. held: for each signal,
    whether skipped steps leave it as the last computed step had it. The value is s0, s0 / s1, s0 / s1 * s2 or
    s0 / s1 * s2 / s3, with `root` its square root; with `accumulate` the sum of those since the last computed step;
    times (r + 1) ** power after r skipped steps in a row, of which there are at most max_run. gap: the greatest
    distance of the last two computed steps that tables tell apart. rules: one for each step but the last. tables: file.
    """

    format: str
    version: int
    name: str
    signals: str
    held: tuple[bool, ...]
    root: bool
    accumulate: bool
    power: int
    max_run: int
    gap: int
    actions: tuple[Action, ...]
    rules: tuple[Rule, ...]
    tables: str

    @property
    def variants(self) -> int:
        """Rows of a step in a table that tells variants apart."""
        return self.gap * (self.max_run + 1)


@dataclass(frozen=True)
class OpenedPolicy:
    """A policy with its tables: name -> float32 [S, 1 or variants, columns]."""

    policy: Policy
    tables: Mapping[str, NDArray[np.float32]]


def policy_text(policy: Policy) -> str:
    """Canonical text: keys in schema order."""
    return json.dumps(encode(policy), indent=1) + "\n"


def signals_signature(manifest: Manifest, policy: Policy) -> Signature:
    """What the program of the signals must take and give: the state before and after a step, and a row of the table."""
    n, q = manifest.sampler.state_size, len(policy.held)
    state = Port("float32", (n, BATCH_AXIS, *manifest.model.latent_shape))
    row = Port("float32", (signal_columns(n, q),))
    return Signature({STATE: state, STATE_OUT: state, SIGNAL_ROW: row}, {SIGNAL: Port("float32", (BATCH_AXIS, q))})


def signal_columns(state_size: int, signals: int) -> int:
    """Length of a row: for each signal two forms, each of the tensors before the step, of those after it, and of 1."""
    return signals * 2 * (2 * state_size + 1)


def read_policy(folder: Path, manifest: Manifest, name: str = POLICY_NAME) -> OpenedPolicy | None:
    """The policy of a bundle whose files have been hashed, or of one of its sizes, with its manifest and the policy's
    name; None where it has none. Raises BundleError."""
    policy = read_rules(folder, manifest, name)
    if policy is None:
        return None
    path = folder / policy.tables
    tables: dict[str, Any] = read_tensors(path)
    widths = {action.table: scalar_count(manifest) for action in policy.actions}
    of_signals = signal_columns(manifest.sampler.state_size, len(policy.held))
    widths |= {action.signals: of_signals for action in policy.actions}
    if tables.keys() != widths.keys():
        odd = sorted(tables.keys() ^ widths.keys())[0]
        raise BundleError(f"{path}: table {odd!r:.80} is not in both the file and {name}; {REBUILD}")
    for name, table in tables.items():
        shapes = [(manifest.sampler.steps, rows, widths[name]) for rows in (1, policy.variants)]
        if table.dtype != np.float32 or table.shape not in shapes:
            raise BundleError(f"{path}: table {name!r:.80} is not float32 {list(shapes[-1])}; {REBUILD}")
        if not (np.abs(table) <= _MAX_VALUE).all():  # NaN compares false
            raise BundleError(f"{path}: table {name!r:.80} has a value that is not within {_MAX_VALUE:g}; {REBUILD}")
    return OpenedPolicy(policy, tables)


def read_rules(folder: Path, manifest: Manifest, name: str = POLICY_NAME) -> Policy | None:
    """policy.json of a bundle that lists it, or that of one of its sizes, held against its manifest; to older versions
    it is a file like any other. Raises BundleError."""
    if manifest.version != FORMAT_VERSION or name not in manifest.files:
        return None
    path = folder / name
    policy = read_side_file(path, Policy, FORMAT, VERSION, _MAX_BYTES)
    problem = _problem(policy, manifest, name)
    if problem:
        raise BundleError(f"{path}: {problem}; {REBUILD}")
    return policy


def _problem(policy: Policy, manifest: Manifest, own: str) -> str | None:
    """The first inconsistency in words, or None."""
    for name, value, low, high in (
        ("len(held)", len(policy.held), 1, MOST_SIGNALS), ("power", policy.power, 0, _MOST_POWER),
        ("max_run", policy.max_run, 1, MOST_RUN), ("gap", policy.gap, 1, MOST_GAP),
        ("len(actions)", len(policy.actions), 2, MOST_ACTIONS),
    ):  # fmt: skip
        if not low <= value <= high:
            return f"{name}={value!r:.40} is outside {low} .. {high}"
    names, tables = [action.name for action in policy.actions], [action.table for action in policy.actions]
    signals = {action.signals for action in policy.actions}
    words = [policy.name, *names, *tables, *sorted(signals)]
    odd = [word for word in words if not _WORD.fullmatch(word)]
    if odd:
        return f"{odd[0]!r:.80} is not a plain name"
    if len(set(names)) != len(names) or len({*tables, *signals}) != len(tables) + len(signals):
        return "actions: a name or a table stands twice"
    return _program_problem(policy, manifest) or _rule_problem(policy, manifest) or _use_problem(policy, manifest, own)


def _program_problem(policy: Policy, manifest: Manifest) -> str | None:
    for i, action in enumerate(policy.actions):
        if not 0 <= action.program < len(manifest.programs):
            return f"actions[{i}].program={action.program!r:.40} does not exist"
        program = manifest.programs[action.program]
        if program.reads or program.writes:
            return f"actions[{i}]: {program.file} touches the cache"
    if policy.actions[FULL].program != manifest.baseline_program:
        return "actions[0] does not run the baseline program"
    return None


def _rule_problem(policy: Policy, manifest: Manifest) -> str | None:
    if len(policy.rules) != manifest.sampler.steps - 1:
        return f"{len(policy.rules)} rules, expected {manifest.sampler.steps - 1}"
    for i, rule in enumerate(policy.rules):
        if not 0 <= rule.action < len(policy.actions):
            return f"rules[{i}].action={rule.action!r:.40} does not exist"
    return None


def _use_problem(policy: Policy, manifest: Manifest, own: str) -> str | None:
    """Its files are the bundle's, and of no other use."""
    used = {*manifest.weights, manifest.tables, *(tokenizer.file for tokenizer in manifest.tokenizers), own}
    used.update(file for file, _ in program_files(manifest))
    for file in (policy.signals, policy.tables):
        if file not in manifest.files:
            return f"file {file!r:.80} is used but not listed in the manifest"
        if file in used:
            return f"file {file!r:.80} has two uses"
        used.add(file)
    if manifest.files[policy.tables].bytes > _MAX_TABLES_BYTES:
        return f"{policy.tables} has {manifest.files[policy.tables].bytes} bytes, at most {_MAX_TABLES_BYTES} are read"
    return None
