"""Tensors stream from disk to disk: what is written is read back by others, and no more than one is ever held."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from soda_runtime.tensors import read_header
from torch import Tensor

from soda_export.errors import InternalError, ModelError, UsageError
from soda_export.export.tensor_file import Checkpoint, TensorSource, write_tensors
from soda_export.export.weights import WEIGHTS_NAME, WeightsFile

TENSORS = {
    "b.half": torch.arange(3, dtype=torch.float16),
    "a.brain": torch.arange(5, dtype=torch.bfloat16).reshape(5, 1),
    "c.ids": torch.tensor([[1, -2], [3, 2**40]]),
    "d.float": torch.linspace(-1, 1, 6).reshape(2, 3),
    "e.scalar": torch.tensor(2.5),
    "f.none": torch.zeros(0, 4),
}


def _source(name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> TensorSource:
    return TensorSource(name, dtype or tensor.dtype, tuple(tensor.shape), lambda: tensor)


def test_a_written_file_is_read_back_by_the_safetensors_library(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", [_source(name, tensor) for name, tensor in TENSORS.items()])
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_tensors_begin_at_a_cache_line_and_each_is_aligned_to_its_items(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", [_source(name, tensor) for name, tensor in TENSORS.items()])
    entries = read_header(tmp_path / "x.safetensors")
    assert min(entry.begin for entry in entries.values()) % 64 == 0
    assert all(entries[name].begin % tensor.element_size() == 0 for name, tensor in TENSORS.items())


def test_the_order_of_production_leaves_no_trace_in_the_file(tmp_path: Path) -> None:
    sources = [_source(name, tensor) for name, tensor in TENSORS.items()]
    write_tensors(tmp_path / "a", sources)
    write_tensors(tmp_path / "b", reversed(sources))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_floating_tensors_are_cast_and_transposed_on_the_way(tmp_path: Path) -> None:
    weight = torch.randn(4, 6)
    write_tensors(tmp_path / "x", [TensorSource("w", torch.bfloat16, (6, 4), lambda: weight.t())])
    assert torch.equal(load_file(tmp_path / "x")["w"], weight.t().to(torch.bfloat16))


def test_no_more_than_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []
    counts = []

    def make() -> Tensor:
        counts.append(sum(reference() is not None for reference in alive))
        tensor = torch.ones(100, 100)
        alive.append(weakref.ref(tensor))
        return tensor

    gc.disable()  # memory must not depend on the collector
    try:
        types = (torch.float32, torch.float16)
        write_tensors(tmp_path / "x", [TensorSource(f"{i}", types[i % 2], (100, 100), make) for i in range(6)])
    finally:
        gc.enable()
    assert counts == [0] * 6


@pytest.mark.parametrize(
    "made", [torch.zeros(2), torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)], ids=["size", "axes", "integers"]
)
def test_a_tensor_other_than_announced_is_refused_and_no_file_is_left(tmp_path: Path, made: Tensor) -> None:
    with pytest.raises(InternalError, match="announced"):
        write_tensors(tmp_path / "x", [TensorSource("w", torch.float32, (3,), lambda: made)])
    assert list(tmp_path.iterdir()) == []


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="twice"):
        write_tensors(tmp_path / "x", [_source("w", torch.zeros(1))] * 2)


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing"):
        write_tensors(tmp_path / "missing" / "x", [_source("w", torch.zeros(1))])


def test_progress_counts_every_tensor(tmp_path: Path) -> None:
    seen = []
    sources = [_source(name, tensor) for name, tensor in TENSORS.items()]
    write_tensors(tmp_path / "x", sources, lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 6) for i in range(6)]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_weights_of_a_model_are_cast_and_keep_their_names(
    precision: str, dtype: torch.dtype, tiny_model: Path, tmp_path: Path
) -> None:
    """Matrices that products find turned end in .T; constants of the configuration come besides."""
    from soda_export.lower.lower import lower_plan
    from soda_export.models.load import load_model
    from soda_export.sampler import freeze_sampler
    from tests.export.play import export_and_open
    from tests.tiny import make_plan, mixed_kept

    loaded = load_model(str(tiny_model))
    table = lower_plan(make_plan(loaded.spec, mixed_kept()), loaded.spec)
    sampler = freeze_sampler("ddim", loaded.scheduler_config, 8)
    export_and_open(loaded, sampler, table, tmp_path, precision)
    read, file = load_file(tmp_path / WEIGHTS_NAME), WeightsFile(tmp_path)
    state = loaded.module.state_dict()
    for name, tensor in read.items():
        assert file.initializer(name).shape == list(tensor.shape)
        if not name.startswith("constants."):
            stored = state[name.removesuffix(".T")].to(dtype)
            assert torch.equal(tensor, stored.t() if name.endswith(".T") else stored)
    assert len([name for name in read if name.startswith("constants.")]) <= 2


def _sharded(folder: Path) -> None:
    save_file({"one": torch.ones(2, 3), "two": torch.full((4,), 2.0)}, folder / "a.safetensors")
    save_file({"three": torch.full((1,), 3.0)}, folder / "b.safetensors")
    files = {"one": "a.safetensors", "two": "a.safetensors", "three": "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def test_a_checkpoint_of_several_files_reads_as_one(tmp_path: Path) -> None:
    _sharded(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.shape("one") == (2, 3)
    assert [checkpoint.read(key)[0].sum().item() for key in ("one", "three", "two")] == [3.0, 3.0, 2.0]
    assert "four" not in checkpoint
    with pytest.raises(ModelError, match=r"index\.json: no tensor 'four'"):
        checkpoint.file_of("four")


def _drop_shard(folder: Path) -> None:
    (folder / "b.safetensors").unlink()


def _damage_shard(folder: Path) -> None:
    (folder / "b.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")


def _swap_shard(folder: Path) -> None:
    save_file({"other": torch.ones(1)}, folder / "b.safetensors")


def _damage_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_drop_shard, "b.safetensors"),
        (_damage_shard, "b.safetensors"),
        (_swap_shard, "b.safetensors: no tensor 'three'"),
        (_damage_index, "index.json"),
    ],
)
def test_a_damaged_checkpoint_is_a_model_error_that_names_the_file(
    tmp_path: Path, damage: Callable[[Path], None], named: str
) -> None:
    _sharded(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=named):
        Checkpoint(tmp_path).read("three")
