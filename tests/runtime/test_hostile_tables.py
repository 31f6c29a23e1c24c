"""A bundle whose tables are missing, of another shape or of odd values is refused when it is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import checks

from .bundles import edit_manifest, retable, safetensors_bytes, split_safetensors, zeros

Refuses = Callable[[Path, str], None]


def test_tables_of_64_gib_are_refused_unread(folder: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch) -> None:
    path, size = folder / "tables.safetensors", 1 << 36
    header = {
        "coefficients": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]},
        "time_embedding": {"dtype": "F32", "shape": [8, size // 32], "data_offsets": [128, 128 + size]},
    }
    content = safetensors_bytes(header)
    path.write_bytes(content)
    os.truncate(path, len(content) + 128 + size)
    edit_manifest(folder, lambda manifest: manifest["files"][path.name].update(bytes=path.stat().st_size))
    monkeypatch.setattr(checks, "_check_hash", lambda *_: None)
    original = Path.read_bytes

    def bounded(self: Path) -> bytes:
        assert self != path, "the tables were read whole"
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", bounded)
    refuses(folder, "tables.safetensors")


def test_tables_written_anew_but_unchanged_get_as_far_as_the_backend(folder: Path, refuses: Refuses) -> None:
    retable(folder, "coefficients", zeros("F32", [8, 4]))
    with pytest.raises(AssertionError, match="a backend was opened"):
        refuses(folder, "tables.safetensors")


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("coefficients", "F64", [8, 4]),
        ("coefficients", "I32", [8, 4]),
        ("coefficients", "BF16", [8, 4]),
        ("coefficients", "F32", [7, 4]),
        ("coefficients", "F32", [9, 4]),
        ("coefficients", "F32", [32]),
        ("coefficients", "F32", []),
        ("coefficients", "F32", [0, 4]),
        ("coefficients", "F32", [8, 5]),
        ("coefficients", "F32", [8, 2, 2]),
        ("time_embedding", "F64", [8, 16]),
        ("time_embedding", "F32", [1, 16]),
        ("time_embedding", "F32", [8]),
        ("surplus", "F32", [8, 4]),
        ("baseline_coefficients", "F32", [8, 4]),  # of a sampler that is not fitted
    ],
)
def test_a_table_of_another_shape_or_type_is_refused(
    folder: Path, refuses: Refuses, name: str, dtype: str, shape: list[int]
) -> None:
    retable(folder, name, zeros(dtype, shape))
    refuses(folder, "tables.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e38, -1e19])
@pytest.mark.parametrize("name", ["coefficients", "time_embedding"])
def test_a_table_of_values_that_are_no_numbers_to_compute_with_is_refused(
    folder: Path, refuses: Refuses, name: str, value: float
) -> None:
    header, content = split_safetensors(folder / "tables.safetensors")
    entry = header[name]
    data = np.frombuffer(content[slice(*entry["data_offsets"])], np.float32).copy()
    data[len(data) // 2] = value
    retable(folder, name, ("F32", entry["shape"], data.tobytes()))
    refuses(folder, "tables.safetensors")


def test_a_table_of_the_largest_values_opens(folder: Path, opens: Callable[[Path], None]) -> None:
    header, _ = split_safetensors(folder / "tables.safetensors")
    shape = header["time_embedding"]["shape"]
    retable(folder, "time_embedding", ("F32", shape, np.full(shape, 1e18, np.float32).tobytes()))
    opens(folder)


@pytest.mark.parametrize("name", ["coefficients", "time_embedding"])
def test_a_missing_table_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    retable(folder, name, None)
    refuses(folder, "tables.safetensors")


@pytest.mark.parametrize("name", ["x" * 100_000, "ä\n\0"])
def test_a_table_of_an_odd_name_is_refused_in_one_line(folder: Path, refuses: Refuses, name: str) -> None:
    retable(folder, name, zeros("F32", [8, 4]))
    refuses(folder, "tables.safetensors")
