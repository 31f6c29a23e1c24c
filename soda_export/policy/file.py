"""A policy that was calibrated, as two files: policy.json and its tables, over the state that it needs itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file
from soda_runtime.policy import POLICY_NAME, Policy, policy_text
from soda_runtime.strict_json import decode

from ..sampler import SamplerTable
from .adaptive import TABLES_FILE, AdaptivePolicy

_MEASURED_NAME = "calls.json"


def write_policy(policy: AdaptivePolicy, folder: Path) -> None:
    """Into `folder`; calls.json has the mean number of model calls on the calibration samples."""
    (folder / POLICY_NAME).write_text(policy_text(policy.record()))
    save_file({name: np.ascontiguousarray(table) for name, table in policy.tables.items()}, folder / TABLES_FILE)
    (folder / _MEASURED_NAME).write_bytes(msgspec.json.encode({"calls": policy.calls}))


def read_policy(folder: Path, own: SamplerTable) -> AdaptivePolicy:
    """What write_policy left in a stage's folder. own: the sampler that it was made for."""
    record = decode(Policy, msgspec.json.decode((folder / POLICY_NAME).read_bytes()))
    tables = load_file(folder / TABLES_FILE)
    rows = {action.name: tables[action.table] for action in record.actions}
    columns = next(iter(rows.values())).shape[2]
    state_size = own.state_size_of(columns)
    signals = {}
    for action in record.actions:
        table = tables[action.signals]
        signals[action.name] = table.reshape(*table.shape[:2], len(record.held), 2, 2 * state_size + 1)
    calls = float(msgspec.json.decode((folder / _MEASURED_NAME).read_bytes())["calls"])
    return AdaptivePolicy(
        record.name, own, state_size, rows, signals, record.rules, record.held, record.root, record.accumulate,
        record.power, record.max_run, record.gap, calls,
    )  # fmt: skip
