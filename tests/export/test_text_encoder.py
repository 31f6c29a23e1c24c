"""The exported T5 encoder is transformers' own, whatever the files it was stored in."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file, save_file
from torch import Tensor

from soda_export.errors import ModelError, UsageError
from soda_export.export import tensor_file
from soda_export.export.text_encoder import TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME
from soda_export.models import checkpoint

from .text_folders import (
    CONFIG,
    T,
    export_t5,
    reshape_table,
    save_t5,
)


@pytest.fixture(scope="module", params=["gated-gelu", "relu"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("t5")
    return folder, save_t5(folder, request.param)


@pytest.fixture(scope="module")
def exported(saved: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It in fp32."""
    out = tmp_path_factory.mktemp("exported")
    export_t5(saved[0], out)
    return out


def _texts() -> tuple[Tensor, Tensor]:
    """Ids and mask of a full text, two padded ones and one of a single token."""
    generator = torch.Generator().manual_seed(1)
    ids, mask = torch.randint(3, 60, (4, T), generator=generator), torch.ones(4, T, dtype=torch.int64)
    for row, length in enumerate((T, 13, 4, 1)):
        ids[row, length:], mask[row, length:] = 0, 0
    return ids, mask


@torch.no_grad()
def _reference(model: Any) -> Tensor:
    ids, mask = _texts()
    result: Tensor = model(ids, attention_mask=mask).last_hidden_state
    return result


def _run(out: Path, rows: slice = slice(None)) -> np.ndarray[Any, Any]:
    ids, mask = (t[rows].numpy() for t in _texts())
    session = ort.InferenceSession(out / TEXT_ENCODER_NAME, providers=["CPUExecutionProvider"])
    result: np.ndarray[Any, Any] = session.run(["embeds"], {"input_ids": ids, "attention_mask": mask})[0]
    return result


def _run_any(out: Path) -> np.ndarray[Any, Any]:
    """By ONNX's reference, which has products in bf16."""
    ids, mask = (t.numpy() for t in _texts())
    model = ReferenceEvaluator(onnx.load(str(out / TEXT_ENCODER_NAME)))
    result: np.ndarray[Any, Any] = model.run(["embeds"], {"input_ids": ids, "attention_mask": mask})[0]
    return result


def test_the_encoder_is_that_of_transformers_in_onnx_runtime(saved: tuple[Path, Any], exported: Path) -> None:
    expected = _reference(saved[1])
    np.testing.assert_allclose(_run(exported), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(_run(exported, slice(1, 2)), expected[1:2], rtol=0, atol=1e-5)


def test_a_weight_is_stored_as_its_product_takes_it(saved: tuple[Path, Any], exported: Path) -> None:
    """[in, out], under the checkpoint's name and `.T`; no node turns a weight."""
    written, stored = load_file(exported / TEXT_WEIGHTS_NAME), saved[1].state_dict()
    for name, tensor in written.items():
        if not name.startswith("constants."):
            own = stored[name.removeprefix("text_encoder.").removesuffix(".T")]
            assert torch.equal(tensor, own.t() if name.endswith(".T") else own)
    graph = onnx.load(str(exported / TEXT_ENCODER_NAME), load_external_data=False).graph
    turned = {node.input[0] for node in graph.node if node.op_type == "Transpose"}
    assert not turned & {initializer.name for initializer in graph.initializer}


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 0.01), ("bf16", 0.1)])
def test_half_precision_stays_near_fp32(precision: str, bound: float, saved: tuple[Path, Any], tmp_path: Path) -> None:
    """Outputs reach 3. ONNX Runtime has no bf16 products on CPU."""
    source, model = saved
    export_t5(source, tmp_path, precision=precision)
    expected = _reference(model)
    np.testing.assert_allclose(_run_any(tmp_path), expected, rtol=0, atol=bound)
    if precision == "fp16":
        np.testing.assert_allclose(_run(tmp_path), expected, rtol=0, atol=bound)


def test_sums_beyond_fp16_survive_in_fp16(tmp_path: Path) -> None:
    """T5 v1.1's second feed-forward projection and residual stream leave fp16's range of 65504."""
    model = save_t5(tmp_path, "gated-gelu")
    with torch.no_grad():
        model.encoder.block[0].layer[1].DenseReluDense.wo.weight.mul_(1e5)
    model.save_pretrained(tmp_path)
    hidden = model(*_texts(), output_hidden_states=True).hidden_states[1]
    assert hidden.abs().max() > 65504
    export_t5(tmp_path, tmp_path, precision="fp16")
    np.testing.assert_allclose(_run(tmp_path), _reference(model), rtol=0, atol=0.02)


def test_several_files_or_one_give_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name, size in (("one", "1GB"), ("several", "12KB")):
        source, out = tmp_path / name, tmp_path / f"{name}-out"
        out.mkdir()
        save_t5(source, "gated-gelu", size)
        export_t5(source, out, precision="bf16")
        written.append([(out / file).read_bytes() for file in (TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME)])
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    assert written[0] == written[1]


def test_each_file_is_opened_once_to_check_and_once_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_t5(tmp_path, "gated-gelu", "12KB")
    opened: list[Path] = []
    original = checkpoint.safe_open

    def recorded(path: Path, framework: str) -> Any:
        opened.append(path)
        return original(path, framework=framework)

    monkeypatch.setattr(checkpoint, "safe_open", recorded)
    export_t5(tmp_path, tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert opened == shards + shards


def test_no_more_than_one_stored_tensor_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_t5(tmp_path, "gated-gelu", "12KB")
    alive: list[weakref.ref[Tensor]] = []
    counts = []
    original = tensor_file.Checkpoint.read

    def recorded(self: tensor_file.Checkpoint, key: str) -> Tensor:
        counts.append(sum(reference() is not None for reference in alive))
        tensor = original(self, key)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(tensor_file.Checkpoint, "read", recorded)
    gc.disable()
    try:
        export_t5(tmp_path, tmp_path, precision="fp16")
    finally:
        gc.enable()
    assert len(counts) == 3 + 9 * 2
    assert set(counts) == {0}


def test_random_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    written = {}
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        (tmp_path / name).mkdir()
        export_t5(CONFIG, tmp_path / name, seed=seed)
        written[name] = load_file(tmp_path / name / TEXT_WEIGHTS_NAME)
    for name, tensor in written["a"].items():
        assert torch.equal(tensor, written["b"][name])
        same = name.endswith("norm.weight") or name.startswith("constants.")
        assert torch.equal(tensor, written["c"][name]) == same
    assert abs(written["a"]["text_encoder.encoder.embed_tokens.weight"].std() - 0.02) < 0.002
    assert np.isfinite(_run(tmp_path / "a")).all()


def test_the_table_of_tokens_is_found_under_either_name(tmp_path: Path) -> None:
    save_t5(tmp_path, "relu")
    export_t5(tmp_path, tmp_path)
    before = (tmp_path / TEXT_WEIGHTS_NAME).read_bytes()
    stored = load_file(tmp_path / "model.safetensors")
    stored["encoder.embed_tokens.weight"] = stored.pop("shared.weight").clone()
    save_file(stored, tmp_path / "model.safetensors")
    export_t5(tmp_path, tmp_path)
    assert (tmp_path / TEXT_WEIGHTS_NAME).read_bytes() == before


def _drop(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    del stored["encoder.block.1.layer.0.SelfAttention.k.weight"]
    save_file(stored, folder / "model.safetensors")


def _configure(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, r"model\.safetensors: no tensor 'encoder\.block\.1\.layer\.0\.SelfAttention\.k\.weight'"),
        (reshape_table, r"model\.safetensors: 'shared\.weight' is \[61, 32\], config\.json says \[60, 32\]"),
        (_configure(model_type="mt5", architectures=["MT5EncoderModel"]), r"config\.json: .*'MT5EncoderModel'"),
        (_configure(feed_forward_proj="gated-cube", dense_act_fn="cube"), r"config\.json: .*cannot build .*cube"),
        (_configure(num_heads=0), r"config\.json: num_heads=0"),
        (_pickle, r"only pytorch_model\.bin, a pickle, .* soda-export convert "),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \.safetensors weights; save the model with"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(change: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    save_t5(tmp_path, "gated-gelu")
    change(tmp_path)
    with pytest.raises(ModelError, match=message):
        export_t5(tmp_path, tmp_path)
    assert not (tmp_path / TEXT_WEIGHTS_NAME).exists()


def test_an_unknown_precision_and_a_missing_seed_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int4"):
        export_t5(CONFIG, tmp_path, precision="int4", seed=0)
    with pytest.raises(UsageError, match="seed"):
        export_t5(CONFIG, tmp_path)
