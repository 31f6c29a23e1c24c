"""Bundles whose schedule brings coefficients of its own: a request takes the rows of its table, none of the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, BundleError, DeviceOptions
from soda_runtime.backends import View
from soda_runtime.backends.null import NullEngine

from .bundles import GOLDEN, GOLDEN_V3, Json, copy_golden, distance, drop, edit_manifest, put, retable, zeros
from .fake_cuda import FakeCuda, install_cuda
from .fake_tensorrt import FakeTensorRT, install_tensorrt
from .nvidia_bundles import make_nvidia_bundle
from .test_toys import noise_of
from .toys import STEPS, Toy

Refuses = Callable[[Path, str], None]
COLUMNS = {1: 4, 2: 9}  # of a state of so many tensors


def test_an_unaccelerated_request_takes_the_samplers_own_coefficients(tmp_path: Path) -> None:
    """It gives what it gives without a correction, bit for bit, whatever was played before."""
    plain = Bundle.open(Toy(stochastic=True).write(tmp_path / "plain"), threads=1).session()
    session = Bundle.open(Toy(stochastic=True, fitted=True).write(tmp_path / "toy"), threads=1).session()
    for _ in range(2):
        assert not np.array_equal(session.generate(1, seed=5), plain.generate(1, seed=5))
        unaccelerated = session.generate(1, seed=5, accelerated=False)
        assert np.array_equal(unaccelerated, plain.generate(1, seed=5, accelerated=False))


@pytest.mark.parametrize("fitted", [True, False])
@pytest.mark.parametrize("accelerated", [True, False])
def test_every_step_is_bound_to_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitted: bool, accelerated: bool
) -> None:
    toy, rows = Toy(state_size=2, fitted=fitted), {}
    bind = NullEngine.bind

    def note(engine: NullEngine, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]) -> Any:
        if "coefficients" in inputs:
            view = inputs["coefficients"]
            rows[label] = view.memory.read()[view.offset : view.offset + 4 * COLUMNS[2]].view(np.float32)
        return bind(engine, label, inputs, outputs)

    monkeypatch.setattr(NullEngine, "bind", note)
    session = Bundle.open(toy.write(tmp_path / "toy"), backend="null").session()
    session.generate(1, accelerated=accelerated)
    assert sorted(rows) == [f"step {i}" for i in range(STEPS)]
    assert np.array_equal([rows[f"step {i}"] for i in range(STEPS)], toy.coefficients(accelerated))


@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_device_takes_the_rows_of_both_tables_at_addresses_that_its_engines_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Others would be copied at each step."""
    pytest.importorskip("onnxruntime")
    toy = Toy(state_size=2, fitted=True)
    folder = make_nvidia_bundle(tmp_path / "bundle", toy.write(tmp_path / "toy"))
    library = install_tensorrt(monkeypatch, FakeTensorRT(install_cuda(monkeypatch, FakeCuda()), "tensorrt_rtx"))
    library.cuda.zeros_will_do = mode == "on"  # the loop is recorded before there is a request
    with Bundle.open(folder, options=DeviceOptions(cuda_graph=mode)) as bundle, bundle.session() as session:  # type: ignore[arg-type]
        for accelerated in (True, False, True):
            session.start([0, 4], seed=5, accelerated=accelerated)
            begin = len(library.cuda.log)
            session.run_steps()
            assert not any(name.startswith("cudaMemcpyAsync") for name in library.cuda.log[begin:])
            expected = toy.play([0, 4], noise_of(5, 2, False), accelerated)
            assert distance(session.latents(), expected) <= 1e-5


@pytest.fixture
def fitted(folder: Path) -> Path:
    """The golden bundle with a second table of coefficients."""
    edit_manifest(folder, put("sampler", "fitted", value=True))
    retable(folder, "baseline_coefficients", zeros("F32", [8, COLUMNS[1]]))
    return folder


def test_two_tables_of_coefficients_open(fitted: Path, opens: Callable[[Path], None]) -> None:
    opens(fitted)


@pytest.mark.parametrize("table", ["coefficients", "baseline_coefficients"])
def test_a_missing_table_of_coefficients_is_refused(fitted: Path, refuses: Refuses, table: str) -> None:
    retable(fitted, table, None)
    refuses(fitted, "tables.safetensors")


def test_the_samplers_own_coefficients_where_the_schedule_has_none_are_refused(
    fitted: Path, refuses: Refuses
) -> None:
    edit_manifest(fitted, put("sampler", "fitted", value=False))
    refuses(fitted, "tables.safetensors")


@pytest.mark.parametrize("table", ["coefficients", "baseline_coefficients"])
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("F64", [8, 4]), ("I32", [8, 4]), ("BF16", [8, 4]), ("F32", [7, 4]), ("F32", [9, 4]), ("F32", [32]),
        ("F32", []), ("F32", [0, 4]), ("F32", [8, 3]), ("F32", [8, 5]), ("F32", [8, 2, 2]),
    ],
)  # fmt: skip
def test_either_table_of_coefficients_of_another_shape_or_type_is_refused(
    fitted: Path, refuses: Refuses, table: str, dtype: str, shape: list[int]
) -> None:
    retable(fitted, table, zeros(dtype, shape))
    refuses(fitted, "tables.safetensors")


def test_the_message_names_the_table_whose_columns_are_wrong(fitted: Path) -> None:
    retable(fitted, "baseline_coefficients", zeros("F32", [8, 5]))
    with pytest.raises(BundleError, match=r"baseline_coefficients have shape \(8, 5\), expected 4 columns; rebuild"):
        Bundle.open(fitted, backend="null")


OLDER: dict[str, tuple[Path, Callable[[Json], object], str]] = {
    "version 2 with forecasts": (GOLDEN, put("forecasts", value=0), r"\$: unknown key 'forecasts'"),
    "version 2 with a correction": (
        GOLDEN, put("sampler", "fitted", value=False), r"\$\.sampler: unknown key 'fitted'"
    ),
    "version 3 with a correction": (
        GOLDEN_V3, put("sampler", "fitted", value=False), r"\$\.sampler: unknown key 'fitted'"
    ),
    "version 3 without forecasts": (GOLDEN_V3, drop("forecasts"), r"\$: missing key 'forecasts'"),
    "version 3 without a sampler": (GOLDEN_V3, drop("sampler"), r"\$: missing key 'sampler'"),
    "version 3 with a list for a sampler": (GOLDEN_V3, put("sampler", value=[]), r"\$\.sampler: expected an object"),
}  # fmt: skip


@pytest.mark.parametrize("name", OLDER)
def test_an_older_version_has_its_own_keys(folder: Path, refuses: Refuses, name: str) -> None:
    golden, change, message = OLDER[name]
    older = copy_golden(folder.with_name("older"), golden)
    edit_manifest(older, change)
    refuses(older, "manifest.json")
    with pytest.raises(BundleError, match=message):
        Bundle.open(older, backend="null")
