"""The exported T5 encoder is transformers' own, whatever the files it was stored in."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file, save_file
from soda_runtime.text import PromptTokenizer
from torch import Tensor

from soda_export.errors import ModelError, UsageError
from soda_export.export import tensor_file
from soda_export.export.encode import encode_texts
from soda_export.export.text_encoder import TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME, export_text_encoder
from soda_export.export.tokenizer import export_tokenizer
from soda_export.models import checkpoint
from soda_export.models.prompts import PromptModel
from soda_export.models.recipe import TextPart, TextRecipe
from soda_export.models.text import read_text_model

T, WEIGHTS = 20, "model.safetensors"
CONFIG = {
    "model_type": "t5", "vocab_size": 60, "d_model": 32, "d_kv": 12, "num_heads": 4, "d_ff": 48, "num_layers": 2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
}  # fmt: skip
PART = TextPart("text_encoder", "tokenizer", tokens=T)
MASKED = TextPart("text_encoder", "tokenizer", tokens=T, mask="attention_mask")


def _model(source: Path | dict[str, Any], part: TextPart, **ports: str) -> PromptModel:
    """A recipe of single outputs of one encoder. ports: port -> output."""
    model = read_text_model(source)
    recipe = TextRecipe({port: ((getattr(part, output),),) for port, output in ports.items()})
    shapes = {name: (T, model.width("last")) for name in ports}
    shapes |= {name: (model.width("pooled"),) for name, output in ports.items() if output == "pooled"}
    return PromptModel(recipe, {part: model}, T, shapes)


def _export_t5(source: Path | dict[str, Any], out: Path, precision: str = "fp32", seed: int | None = None) -> None:
    sources = {PART.name: source} if isinstance(source, Path) else {}
    export_text_encoder(_model(source, MASKED, embeds="last"), sources, out, precision=precision, seed=seed)


def _encode(source: Path, texts: list[str]) -> dict[str, Tensor]:
    tokenizer = PromptTokenizer(source / "tokenizer.json", T)
    model = _model(source, MASKED, embeds="last")
    return encode_texts(model, {PART.name: source}, lambda part, given: tokenizer(list(given)), texts, [])[0]


def _save(folder: Path, kind: str, max_shard_size: str = "1GB") -> Any:
    """A random T5EncoderModel in transformers' format."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    settings = {key: value for key, value in CONFIG.items() if key != "model_type"}
    model = T5EncoderModel(T5Config(**settings, feed_forward_proj=kind)).eval()
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model


@pytest.fixture(scope="module", params=["gated-gelu", "relu"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("t5")
    return folder, _save(folder, request.param)


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


def test_the_encoder_is_that_of_transformers_in_onnx_runtime(saved: tuple[Path, Any], tmp_path: Path) -> None:
    source, model = saved
    _export_t5(source, tmp_path)
    expected = _reference(model)
    np.testing.assert_allclose(_run(tmp_path), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(_run(tmp_path, slice(1, 2)), expected[1:2], rtol=0, atol=1e-5)


def test_a_weight_is_stored_as_its_product_takes_it(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """[in, out], under the checkpoint's name and `.T`; no node turns a weight."""
    source, model = saved
    _export_t5(source, tmp_path)
    written, stored = load_file(tmp_path / TEXT_WEIGHTS_NAME), model.state_dict()
    for name, tensor in written.items():
        if not name.startswith("constants."):
            own = stored[name.removeprefix("text_encoder.").removesuffix(".T")]
            assert torch.equal(tensor, own.t() if name.endswith(".T") else own)
    graph = onnx.load(str(tmp_path / TEXT_ENCODER_NAME), load_external_data=False).graph
    turned = {node.input[0] for node in graph.node if node.op_type == "Transpose"}
    assert not turned & {initializer.name for initializer in graph.initializer}


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 0.01), ("bf16", 0.1)])
def test_half_precision_stays_near_fp32(precision: str, bound: float, saved: tuple[Path, Any], tmp_path: Path) -> None:
    """Outputs reach 3. ONNX Runtime has no bf16 products on CPU."""
    source, model = saved
    _export_t5(source, tmp_path, precision=precision)
    expected = _reference(model)
    np.testing.assert_allclose(_run_any(tmp_path), expected, rtol=0, atol=bound)
    if precision == "fp16":
        np.testing.assert_allclose(_run(tmp_path), expected, rtol=0, atol=bound)


def test_sums_beyond_fp16_survive_in_fp16(tmp_path: Path) -> None:
    """T5 v1.1's second feed-forward projection and residual stream leave fp16's range of 65504."""
    model = _save(tmp_path, "gated-gelu")
    with torch.no_grad():
        model.encoder.block[0].layer[1].DenseReluDense.wo.weight.mul_(1e5)
    model.save_pretrained(tmp_path)
    hidden = model(*_texts(), output_hidden_states=True).hidden_states[1]
    assert hidden.abs().max() > 65504
    _export_t5(tmp_path, tmp_path, precision="fp16")
    np.testing.assert_allclose(_run(tmp_path), _reference(model), rtol=0, atol=0.02)


def test_several_files_or_one_give_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name, size in (("one", "1GB"), ("several", "12KB")):
        source, out = tmp_path / name, tmp_path / f"{name}-out"
        out.mkdir()
        _save(source, "gated-gelu", size)
        _export_t5(source, out, precision="bf16")
        written.append([(out / file).read_bytes() for file in (TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME)])
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    assert written[0] == written[1]


def test_each_file_is_opened_once_to_check_and_once_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, "gated-gelu", "12KB")
    opened: list[Path] = []
    original = checkpoint.safe_open

    def recorded(path: Path, framework: str) -> Any:
        opened.append(path)
        return original(path, framework=framework)

    monkeypatch.setattr(checkpoint, "safe_open", recorded)
    _export_t5(tmp_path, tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert opened == shards + shards


def test_no_more_than_one_stored_tensor_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, "gated-gelu", "12KB")
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
        _export_t5(tmp_path, tmp_path, precision="fp16")
    finally:
        gc.enable()
    assert len(counts) == 3 + 9 * 2
    assert set(counts) == {0}


def test_random_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    written = {}
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        (tmp_path / name).mkdir()
        _export_t5(CONFIG, tmp_path / name, seed=seed)
        written[name] = load_file(tmp_path / name / TEXT_WEIGHTS_NAME)
    for name, tensor in written["a"].items():
        assert torch.equal(tensor, written["b"][name])
        same = name.endswith("norm.weight") or name.startswith("constants.")
        assert torch.equal(tensor, written["c"][name]) == same
    assert abs(written["a"]["text_encoder.encoder.embed_tokens.weight"].std() - 0.02) < 0.002
    assert np.isfinite(_run(tmp_path / "a")).all()


def test_the_table_of_tokens_is_found_under_either_name(tmp_path: Path) -> None:
    _save(tmp_path, "relu")
    _export_t5(tmp_path, tmp_path)
    before = (tmp_path / TEXT_WEIGHTS_NAME).read_bytes()
    stored = load_file(tmp_path / "model.safetensors")
    stored["encoder.embed_tokens.weight"] = stored.pop("shared.weight").clone()
    save_file(stored, tmp_path / "model.safetensors")
    _export_t5(tmp_path, tmp_path)
    assert (tmp_path / TEXT_WEIGHTS_NAME).read_bytes() == before


def _drop(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    del stored["encoder.block.1.layer.0.SelfAttention.k.weight"]
    save_file(stored, folder / "model.safetensors")


def _reshape(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    stored["shared.weight"] = torch.zeros(61, 32)
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
        (_reshape, r"model\.safetensors: 'shared\.weight' is \[61, 32\], config\.json says \[60, 32\]"),
        (_configure(model_type="mt5", architectures=["MT5EncoderModel"]), r"config\.json: .*'MT5EncoderModel'"),
        (_configure(feed_forward_proj="gated-cube", dense_act_fn="cube"), r"config\.json: .*cannot build .*cube"),
        (_configure(num_heads=0), r"config\.json: num_heads=0"),
        (_pickle, r"only pytorch_model\.bin, a pickle, .* soda-export convert "),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \.safetensors weights; save the model with"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(change: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    _save(tmp_path, "gated-gelu")
    change(tmp_path)
    with pytest.raises(ModelError, match=message):
        _export_t5(tmp_path, tmp_path)
    assert not (tmp_path / TEXT_WEIGHTS_NAME).exists()


def test_an_unknown_precision_and_a_missing_seed_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int4"):
        _export_t5(CONFIG, tmp_path, precision="int4", seed=0)
    with pytest.raises(UsageError, match="seed"):
        _export_t5(CONFIG, tmp_path)


CLIP = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": T, "projection_dim": 24, "bos_token_id": 58, "eos_token_id": 59, "pad_token_id": 59,
}  # fmt: skip


def _save_clip(folder: Path, kind: str, **changes: int) -> tuple[Any, Tensor]:
    """A random CLIP text model in transformers' format, and ids of texts of three lengths."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.CLIPTextConfig(**(CLIP | changes))).eval()
    model.save_pretrained(folder)
    ids = torch.randint(3, 58, (3, T), generator=torch.Generator().manual_seed(1))
    for row, end in enumerate((6, T - 1, 2)):
        ids[row, end:] = 59
    return model, ids


def _export_clip(folder: Path, precision: str = "fp32") -> Mapping[str, tuple[int, ...]]:
    wanted = _model(folder, PART, embeds="penultimate", pooled_embeds="pooled")
    export_text_encoder(wanted, {PART.name: folder}, folder, precision=precision)
    return wanted.ports


def _run_clip(out: Path, ids: Tensor) -> list[np.ndarray[Any, Any]]:
    session = ort.InferenceSession(out / TEXT_ENCODER_NAME, providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["input_ids"]  # pipelines give CLIP no mask
    result: list[np.ndarray[Any, Any]] = session.run(["embeds", "pooled_embeds"], {"input_ids": ids.numpy()})
    return result


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("fp16", 0.01)])
@pytest.mark.parametrize(
    ("kind", "eos", "pooled"),
    [
        ("CLIPTextModel", 59, "pooler_output"), ("CLIPTextModelWithProjection", 59, "text_embeds"),
        ("CLIPTextModelWithProjection", 2, "text_embeds"),  # of old configurations: the end has the highest number
    ],
)  # fmt: skip
def test_clip_gives_the_penultimate_states_and_the_pooled_ones(
    kind: str, eos: int, pooled: str, precision: str, bound: float, tmp_path: Path
) -> None:
    model, ids = _save_clip(tmp_path, kind, eos_token_id=eos)
    ports = _export_clip(tmp_path, precision)
    with torch.no_grad():
        result = model(ids, output_hidden_states=True)
    expected = (result.hidden_states[-2], result[pooled])
    assert ports == {"embeds": (T, 32), "pooled_embeds": (24 if pooled == "text_embeds" else 32,)}
    for rows in (slice(None), slice(2, 3)):
        for found, right in zip(_run_clip(tmp_path, ids[rows]), expected, strict=True):
            np.testing.assert_allclose(found, right[rows], rtol=0, atol=bound)


def test_clip_is_found_under_the_names_that_repositories_have(tmp_path: Path) -> None:
    """text_model.…, and a buffer that is no weight."""
    _, ids = _save_clip(tmp_path, "CLIPTextModel")
    stored = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in load_file(tmp_path / WEIGHTS).items()}
    save_file({**stored, "text_model.embeddings.position_ids": torch.arange(T)[None]}, tmp_path / WEIGHTS)
    _export_clip(tmp_path)
    first = _run_clip(tmp_path, ids)
    save_file({name.removeprefix("text_model."): tensor for name, tensor in stored.items()}, tmp_path / WEIGHTS)
    _export_clip(tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(first, _run_clip(tmp_path, ids), strict=True))


def _tokenizer(folder: Path) -> None:
    from transformers import T5Tokenizer

    T5Tokenizer(vocab=PIECES, extra_ids=0).save_pretrained(folder / "tokenizer")
    export_tokenizer(folder / "tokenizer", folder / "tokenizer.json")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ["1GB", "12KB"])
def test_texts_are_encoded_in_float32_by_the_module_itself(dtype: torch.dtype, size: str, tmp_path: Path) -> None:
    model = _save(tmp_path, "gated-gelu").to(dtype)
    model.save_pretrained(tmp_path, max_shard_size=size)
    if size != "1GB":
        (tmp_path / WEIGHTS).unlink()
    _tokenizer(tmp_path)
    made = _encode(tmp_path, ["red r", ""])
    ids, mask = (torch.from_numpy(a) for a in PromptTokenizer(tmp_path / "tokenizer.json", T)(["red r", ""]))
    with torch.no_grad():
        expected = model.float()(ids, attention_mask=mask).last_hidden_state
    assert torch.equal(made["attention_mask"], mask)
    torch.testing.assert_close(made["embeds"], expected, rtol=0, atol=1e-5)


def test_encoding_widens_one_module_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, "gated-gelu").to(torch.bfloat16).save_pretrained(tmp_path)
    _tokenizer(tmp_path)
    alive: list[weakref.ref[Tensor]] = []
    counts: list[int] = []
    original = Tensor.float

    def recorded(self: Tensor) -> Tensor:
        made = original(self)
        if self.dtype == torch.bfloat16:
            counts.append(sum(reference() is not None for reference in alive))
            alive.append(weakref.ref(made))
        return made

    monkeypatch.setattr(Tensor, "float", recorded)
    _encode(tmp_path, ["red"])
    assert len(counts) == 3 + 9 * 2
    assert set(counts) == {0}


def test_encoding_refuses_weights_of_other_sizes(tmp_path: Path) -> None:
    _save(tmp_path, "gated-gelu")
    _reshape(tmp_path)
    _tokenizer(tmp_path)
    with pytest.raises(ModelError, match=r"config\.json: says .* is \[60, 32\], stored \[61, 32\]"):
        _encode(tmp_path, ["red"])


PIECES = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -30.0), ("▁", -6.0), ("▁red", -2.0), ("r", -12.0), ("e", -12.0)]


def test_a_tokenizer_folder_gives_its_tokenizer_json(tmp_path: Path) -> None:
    from transformers import T5Tokenizer

    T5Tokenizer(vocab=PIECES, extra_ids=0).save_pretrained(tmp_path / "tokenizer")
    export_tokenizer(tmp_path / "tokenizer", tmp_path / "tokenizer.json")
    ids, _ = PromptTokenizer(tmp_path / "tokenizer.json", 4)(["red x"])
    assert ids.tolist() == [[4, 3, 2, 1]]


@pytest.mark.filterwarnings("ignore")
def test_a_sentencepiece_model_becomes_a_tokenizer_json(tmp_path: Path) -> None:
    from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto()
    model.trainer_spec.model_type, model.trainer_spec.unk_id = 1, 2
    for i, (piece, score) in enumerate(PIECES):
        entry = model.pieces.add()
        entry.piece, entry.score, entry.type = piece, score, (3, 3, 2)[i] if i < 3 else 1
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "spiece.model").write_bytes(model.SerializeToString())
    export_tokenizer(tmp_path / "in", tmp_path / "tokenizer.json")
    ids, _ = PromptTokenizer(tmp_path / "tokenizer.json", 4)(["red x"])
    assert ids.tolist() == [[4, 3, 2, 1]]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json or spiece\.model"):
        export_tokenizer(tmp_path, tmp_path / "tokenizer.json")
