"""Policies in C++: refused alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from soda_runtime import Bundle, BundleError
from soda_runtime.policy import POLICY_NAME

from tests.runtime.bundles import GOLDEN_V5_POLICY, copy_golden, fix_hashes
from tests.runtime.test_policy import (
    BAD_TABLES,
    LIES,
    test_a_changed_file_of_a_policy_is_refused,
    test_a_policy_that_lies_is_refused,
    test_tables_of_a_policy_that_do_not_fit_are_refused,
)

from .library import Library

__all__ = [
    "BAD_TABLES",
    "LIES",
    "test_a_changed_file_of_a_policy_is_refused",
    "test_a_policy_that_lies_is_refused",
    "test_tables_of_a_policy_that_do_not_fit_are_refused",
]


def test_signals_that_take_weights_from_a_file_that_is_not_listed_are_refused(
    library: Library, tmp_path: Path
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_POLICY)
    program = (folder / "program-00.onnx").read_bytes()
    (folder / "signals.onnx").write_bytes(program.replace(b"weights.safetensors", b"weights.safetensorx"))
    fix_hashes(folder)
    for open_bundle in (Bundle.open, library.open):
        with pytest.raises(BundleError, match=r"signals\.onnx: takes weights from"):
            open_bundle(folder, backend="null")


def test_a_policy_of_more_than_16_mib_is_refused(
    tmp_path: Path, refuses: Callable[[Path, str], None], opens: Callable[[Path], None]
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_POLICY)
    text = (folder / POLICY_NAME).read_bytes()
    for size, check in ((16 << 20, opens), ((16 << 20) + 1, lambda bundle: refuses(bundle, POLICY_NAME))):
        (folder / POLICY_NAME).write_bytes(text.ljust(size))
        fix_hashes(folder)
        check(folder)
