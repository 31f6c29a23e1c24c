"""LoRA on built bundles: what is added, what is refused, and that baking it in gives the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from soda_runtime import Bundle, EngineError, RequestError, Session
from soda_runtime.lora.apply import low_rank_change
from soda_runtime.lora.file import read_lora
from soda_runtime.replaced import narrowed, widened

from soda_export.export.tensor_file import Checkpoint
from soda_export.models.load import ModelRequest, load_model
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Built, Workbench
from soda_export.workbench.stages import StageStore
from tests.text_toys import save_sd_texts
from tests.tiny_models import save_tiny_unet

from .files import factors, kohya, peft, write

STEPS, WIDTH, BAR = 2, 32, 1e-4
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"
LAYERS = {
    f"{ATTENTION}.attn1.to_q": (16, 16), f"{ATTENTION}.attn2.to_k": (16, WIDTH), f"{ATTENTION}.ff.net.2": (16, 64),
    "down_blocks.0.attentions.0.proj_in": (16, 16, 1, 1), "down_blocks.0.resnets.0.conv1": (16, 16, 3, 3),
    "mid_block.resnets.0.conv2": (32, 32, 3, 3), "conv_out": (4, 16, 3, 3),
}  # fmt: skip
TEXT = {
    "text_model.encoder.layers.1.self_attn.q_proj": (WIDTH, WIDTH), "text_model.encoder.layers.0.mlp.fc1": (64, WIDTH),
}  # fmt: skip
REQUEST: dict[str, Any] = {"prompt": "a red circle", "negative_prompt": "blue", "seed": 3, "batch": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy of Stable Diffusion 1.5 with a text encoder."""
    return save_sd_texts(save_tiny_unet(tmp_path_factory.mktemp("model") / "sd", cross_attention_dim=WIDTH), 1)


Build = Callable[..., Built]


@pytest.fixture(scope="module")
def build(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Everything computed at every step. lora: to bake in."""
    store = StageStore(tmp_path_factory.mktemp("store"))

    def built(*lora: str, backend: str = "ort", without: tuple[Any, ...] = ("decoder",)) -> Built:
        loaded = load_model(ModelRequest(str(model), lora=lora))
        bench = Workbench(loaded, SamplerOptions("ddim", STEPS, 0.0, 3.0), store, lambda *_: None)
        plan = bench.plan_of(Schedule.full(loaded.spec, STEPS), "everything")
        out = tmp_path_factory.mktemp("shelf") / "bundle"
        return bench.build(plan, backend, out, BundleOptions(without=without))

    return built


@pytest.fixture(scope="module")
def bundle(build: Build) -> Path:
    return build().out


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A LoRA of the UNet and the text encoder."""
    return write(tmp_path / "whole.safetensors", {**kohya(LAYERS), **kohya(TEXT, "lora_te_")})


def draw(folder: Path, *lora: Any, **options: Any) -> np.ndarray[Any, Any]:
    with Session.open(folder, threads=1, lora=list(lora), **options) as session:
        return session.generate(**REQUEST)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 3)])
def test_the_change_is_what_the_two_factors_do_one_after_the_other(shape: tuple[int, ...], tmp_path: Path) -> None:
    (layer,) = read_lora(write(tmp_path / "a.safetensors", kohya({"x": shape}, alpha=3.0))).layers
    change = torch.from_numpy(low_rank_change(layer, slice(None), 0.5)).reshape(shape)
    down, up = (torch.from_numpy(factor) for factor in factors(shape))
    if len(shape) == 2:
        x = torch.randn(5, shape[1])
        expected, found = x @ down.T @ up.T, x @ change.T
    else:
        x = torch.randn(2, shape[1], 8, 8)
        expected = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down, padding=1), up)
        found = torch.nn.functional.conv2d(x, change, padding=1)
    assert torch.allclose(found, expected * 0.5 * 3.0 / 2, atol=1e-5)


def test_a_lora_added_at_opening_is_the_one_that_is_baked_in(model: Path, bundle: Path, whole: Path) -> None:
    opened = Bundle.open(bundle, backend="null", lora=[(whole, 0.5)])
    loaded, plain = (load_model(ModelRequest(str(model), lora=lora)) for lora in ((f"{whole}:0.5",), ()))
    assert loaded.spec.hash != plain.spec.hash
    assert loaded.lora is not None
    encoder = Checkpoint(model / "text_encoder", change=loaded.lora.of_part("text_encoder"))
    found = 0
    for file, tensors in opened.replaced.files.items():
        for name, tensor in tensors.items():
            path = name.removesuffix(".T")
            own = path.removeprefix("text_encoder.")
            key = own if own in encoder else f"text_model.{own}"
            stored = loaded.weights.read(path) if file == "weights.safetensors" else encoder.read(key)
            expected = (stored.t() if name.endswith(".T") else stored).contiguous().numpy()
            assert np.array_equal(widened(tensor.dtype, tensor.content).reshape(tensor.shape), expected)
            found += 1
    assert found == len(LAYERS) + len(TEXT)


@pytest.mark.long
def test_a_baked_bundle_draws_what_the_lora_added_at_opening_draws(build: Build, bundle: Path, whole: Path) -> None:
    assert np.abs(draw(bundle, (whole, 0.5)) - draw(build(f"{whole}:0.5").out)).max() <= 1e-5


def test_engines_that_share_their_weights_take_it_as_others_do(bundle: Path, whole: Path) -> None:
    added = draw(bundle, (whole, 0.5))
    assert np.abs(added - draw(bundle)).max() > 1e-2
    assert np.abs(added - draw(bundle, (whole, 0.5), weights="shared")).max() <= BAR


def test_openvino_adds_what_onnx_runtime_adds(bundle: Path, whole: Path) -> None:
    pytest.importorskip("openvino")
    assert np.abs(draw(bundle, whole, backend="openvino") - draw(bundle, whole)).max() <= BAR


def test_key_names_make_no_difference(bundle: Path, tmp_path: Path) -> None:
    files = [
        write(tmp_path / "kohya.safetensors", {**kohya(LAYERS), **kohya(TEXT, "lora_te1_")}),
        write(tmp_path / "diffusers.safetensors", {**peft(LAYERS, "unet."), **peft(TEXT, "text_encoder.")}),
    ]
    assert np.array_equal(*(draw(bundle, file) for file in files))


def test_no_strength_is_the_bundle_itself_and_several_files_add_up(bundle: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "first.safetensors", kohya(LAYERS))
    second = write(tmp_path / "second.safetensors", peft({"conv_out": LAYERS["conv_out"]}))
    assert np.array_equal(draw(bundle, (first, 0.0), (second, 0)), draw(bundle))
    halves = draw(bundle, (first, 0.25), (first, 0.25), second)
    assert np.abs(halves - draw(bundle, (first, 0.5), second)).max() <= BAR
    assert np.abs(halves - draw(bundle, (first, 0.5))).max() > 10 * BAR


def test_strengths_change_from_the_next_request_on(bundle: Path, whole: Path) -> None:
    opened = Bundle.open(bundle, threads=1, lora=[whole])
    one, other = opened.session(), opened.session()
    before = one.generate(**REQUEST)
    other.start(**REQUEST)
    other.step(0)
    one.set_lora_strengths([0.0])
    other.step(1)
    assert np.array_equal(other.latents(), before)
    assert np.array_equal(one.generate(**REQUEST), draw(bundle))
    assert np.array_equal(other.generate(**REQUEST), draw(bundle))
    opened.set_lora_strengths([1.0])
    assert np.array_equal(one.generate(**REQUEST), before)
    assert opened.lora_strengths == (1.0,)


def test_a_file_that_is_overwritten_later_does_not_matter(bundle: Path, whole: Path) -> None:
    session = Session.open(bundle, threads=1, lora=[(whole, 0.0)])
    expected = draw(bundle, whole)
    whole.write_bytes(b"")
    session.set_lora_strengths([1])
    assert np.array_equal(session.generate(**REQUEST), expected)


def test_what_does_not_fit_is_refused_in_one_line(bundle: Path, build: Build, tmp_path: Path) -> None:
    def refusal(tensors: dict[str, Any], folder: Path = bundle) -> str:
        with pytest.raises(RequestError) as caught:
            Session.open(folder, lora=[write(tmp_path / "a.safetensors", tensors)])
        assert str(caught.value).isprintable()
        return str(caught.value)

    unknown = refusal({**kohya(LAYERS), **kohya({f"other.{i}": (4, 4) for i in range(5)})})
    assert "7 of 12 layers are in this model; not in it: 'lora_unet_other_0', 'lora_unet_other_1'" in unknown
    assert "and 2 more" in unknown
    for layer in ("time_embedding.linear_1", "down_blocks.0.resnets.0.time_emb_proj"):
        folded = refusal(kohya({**LAYERS, layer: (64, 16)}))
        assert f"only the timestep decides 'lora_unet_{layer.replace('.', '_')}'" in folded
        assert "bake the LoRA in with `soda-export build --lora`" in folded
    assert "[16, 8]" in refusal(kohya({f"{ATTENTION}.attn1.to_q": (16, 8)}))
    assert "without the text encoder" in refusal(kohya(TEXT, "lora_te2_"))
    huge = {name: value * 1e30 for name, value in peft({"conv_out": LAYERS["conv_out"]}).items()}
    assert "lower strength" in refusal(huge)
    without = build(without=("decoder", "text-encoder")).out
    assert "without the text encoder" in refusal(kohya(TEXT, "lora_te_"), without)


@pytest.mark.parametrize("given", ["a", [1], [("a", "b")], [("a", float("nan"))], [("a", 1, 2)], [("a", True)]])
def test_other_arguments_are_refused(given: Any, bundle: Path) -> None:
    with pytest.raises(RequestError, match="lora"):
        Session.open(bundle, lora=given)


def test_strengths_of_another_number_or_kind_are_refused(bundle: Path, whole: Path) -> None:
    with pytest.raises(RequestError, match="without LoRA"):
        Session.open(bundle).set_lora_strengths([1.0])
    session = Session.open(bundle, lora=[whole])
    for strengths in ([], [1.0, 2.0], [float("inf")], ["1"]):
        with pytest.raises(RequestError):
            session.set_lora_strengths(strengths)
    assert session.bundle.lora_strengths == (1.0,)


def test_a_backend_with_fixed_weights_says_so(bundle: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soda_runtime.backends.ort.OrtBackend.why_fixed_weights", lambda *_: "they are built in")
    with pytest.raises(EngineError, match="no LoRA can be added: they are built in"):
        Session.open(bundle, lora=[whole])
    Session.open(bundle, lora=[(whole, 0.0)])


def test_low_precision_is_rounded_to_the_nearest() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    ours = narrowed("BF16", values).content.view(np.uint16)
    theirs = torch.from_numpy(values).bfloat16()
    assert np.array_equal(ours, theirs.view(torch.int16).numpy().view(np.uint16))
    assert np.array_equal(widened("BF16", ours.tobytes()), theirs.float().numpy())
