"""From a prompt to the ports of a model: the exported program equals diffusers' own encode_prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file
from soda_runtime.text import PromptTokenizer

from soda_export.errors import ModelError, UsageError
from soda_export.export.text_encoder import TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME
from soda_export.models.families.clip_texts import SD_TEXTS, SDXL_TEXTS
from soda_export.models.families.flux import FLUX
from soda_export.models.families.sd3 import SD3
from soda_export.models.load import LoadedModel, load_model
from soda_export.models.precision import Compute
from soda_export.models.recipe import NO_TEXT, TextRecipe
from soda_export.models.spec import Port
from soda_export.workbench.prompts import PromptMaker
from tests.text_pipelines import BOUND, Ports, difference, encoded, pipeline
from tests.text_toys import (
    CLIP_TOKENS,
    T5_TOKENS,
    save_flux_texts,
    save_sd3_texts,
    save_sd_texts,
    save_sdxl_texts,
)
from tests.tiny_models import save_tiny_model

PROMPTS, NEGATIVES = ["a red circle", "The 2nd photo of a café!", "x" * 200], ["blue", "", "a square of the photo"]
Shapes = Mapping[str, tuple[int, ...]]
SD_PORTS = {"embeds": (CLIP_TOKENS, 32)}
SDXL_PORTS = {"embeds": (CLIP_TOKENS, 72), "pooled_embeds": (24,)}
SD3_PORTS = {"embeds": (CLIP_TOKENS + T5_TOKENS, 80), "pooled_embeds": (40,)}
FLUX_PORTS = {"embeds": (T5_TOKENS, 40), "pooled_embeds": (32,)}
CASES: dict[str, tuple[Callable[[Path], Path], TextRecipe, Shapes, str]] = {
    "sd1.5": (lambda folder: save_sd_texts(folder, 1), SD_TEXTS, SD_PORTS, "StableDiffusionPipeline"),
    "sd2.1": (lambda folder: save_sd_texts(folder, 2), SD_TEXTS, SD_PORTS, "StableDiffusionPipeline"),
    "sdxl": (save_sdxl_texts, SDXL_TEXTS, SDXL_PORTS, "StableDiffusionXLPipeline"),
    "sd3": (save_sd3_texts, SD3.texts, SD3_PORTS, "StableDiffusion3Pipeline"),
    "sd3 without t5": (lambda f: save_sd3_texts(f, t5=False), SD3.texts, SD3_PORTS, "StableDiffusion3Pipeline"),
    "flux": (save_flux_texts, FLUX.texts, FLUX_PORTS, "FluxPipeline"),
}  # fmt: skip
LONG = (("sd1.5", 1), ("sd2.1", None), ("sdxl", None), ("sd3", None), ("sd3 without t5", 1))
"""The other of each two stays."""


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Any denoiser: what counts here is the texts' folder and the recipe."""
    return load_model(str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")))


def with_texts(
    denoiser: LoadedModel, folder: Path, recipe: TextRecipe, ports: Shapes, clip_skip: int | None = None
) -> LoadedModel:
    named = tuple(Port(name, "embedding", shape) for name, shape in ports.items())
    tokens = CLIP_TOKENS if recipe in (SD_TEXTS, SDXL_TEXTS) else T5_TOKENS
    return replace(
        denoiser, folder=folder, family=replace(denoiser.family, texts=recipe), text_tokens=tokens, clip_skip=clip_skip,
        spec=msgspec.structs.replace(denoiser.spec, ports=named),
    )  # fmt: skip


def played(maker: PromptMaker, out: Path, texts: list[str], precision: Compute = "fp32") -> Ports:
    """What a runtime does with prompts: tokenize, and run the program."""
    maker.export(out, precision, lambda done, total: None)
    given: dict[str, Any] = {}
    entries = maker.tokenizers(out)
    for port in maker.token_ports():
        entry = entries[port.tokenizer]  # type: ignore[union-attr]
        tokenizer = PromptTokenizer(out / entry.file, entry.max_tokens, entry.clean, entry.pad_id)
        given[port.name] = tokenizer(texts)[port.kind == "token_mask"]
    session = ort.InferenceSession(out / TEXT_ENCODER_NAME, providers=["CPUExecutionProvider"])
    names = list(maker.program().outputs)
    assert {i.name for i in session.get_inputs()} == set(given) == set(maker.program().inputs)
    return dict(zip(names, session.run(names, given), strict=True))


@pytest.mark.parametrize(
    ("name", "clip_skip"),
    [
        pytest.param(name, skip, marks=[pytest.mark.long] * ((name, skip) in LONG))
        for name in CASES for skip in (None, 1) if (name, skip) != ("flux", 1)
    ],
)  # fmt: skip
def test_prompts_become_the_ports_of_diffusers_pipelines(
    name: str, clip_skip: int | None, denoiser: LoadedModel, tmp_path: Path
) -> None:
    save, recipe, ports, kind = CASES[name]
    guided = kind != "FluxPipeline"
    folder = save(tmp_path / "texts")
    maker = PromptMaker(with_texts(denoiser, folder, recipe, ports, clip_skip), guided)
    expected = encoded(pipeline(folder, kind), PROMPTS, NEGATIVES, clip_skip)
    if name == "sdxl":  # of the three, the second negative prompt is empty; diffusers asks whether there is none
        for value in expected.values():
            value[4] = 0
    (tmp_path / "out").mkdir()
    found = played(maker, tmp_path / "out", [*PROMPTS, *NEGATIVES] if guided else PROMPTS)
    print(f"{name}, clip_skip {clip_skip}: relative difference {difference(found, expected):.1e}")
    assert difference(found, expected) <= BOUND
    if clip_skip is not None:
        other = encoded(pipeline(folder, kind), PROMPTS, NEGATIVES, None)
        assert difference({n: v[:3] for n, v in found.items()}, {n: v[:3] for n, v in other.items()}) > 100 * BOUND


@pytest.mark.parametrize("name", CASES)
def test_calibration_prompts_are_encoded_as_the_pipelines_do(name: str, denoiser: LoadedModel, tmp_path: Path) -> None:
    save, recipe, ports, kind = CASES[name]
    folder = save(tmp_path / "texts")
    made = PromptMaker(with_texts(denoiser, folder, recipe, ports), guided=True).encode(PROMPTS)
    texts = [*PROMPTS, ""] if kind == "FluxPipeline" else PROMPTS
    negatives = None if name == "sdxl" else [""] * 3
    expected = encoded(pipeline(folder, kind), texts, negatives, None)
    both = {port: torch.cat([value, made.negative[port]]) for port, value in made.positive.items()}
    assert difference(both, {port: value[:4] for port, value in expected.items()}) <= BOUND


def test_products_in_fp16_stay_near_fp32_and_only_t5_keeps_some(denoiser: LoadedModel, tmp_path: Path) -> None:
    folder = save_sd3_texts(tmp_path / "texts")
    maker = PromptMaker(with_texts(denoiser, folder, SD3.texts, SD3_PORTS), guided=True)
    expected = encoded(pipeline(folder, "StableDiffusion3Pipeline"), PROMPTS, NEGATIVES, None)
    (tmp_path / "out").mkdir()
    assert difference(played(maker, tmp_path / "out", [*PROMPTS, *NEGATIVES], "fp16"), expected) <= 0.01
    stored = load_file(tmp_path / "out" / TEXT_WEIGHTS_NAME)
    wide = {name for name, tensor in stored.items() if tensor.dtype == torch.float32 and name.endswith("weight.T")}
    assert {name.split(".")[0] for name in stored} >= {"text_encoder", "text_encoder_2", "text_encoder_3"}
    assert wide
    assert all(name.startswith("text_encoder_3.") and ".wo." in name for name in wide)


def test_sdxl_without_forced_zeros_encodes_the_empty_negative_prompt(denoiser: LoadedModel, tmp_path: Path) -> None:
    folder = save_sdxl_texts(tmp_path / "texts")
    (folder / "model_index.json").write_text(json.dumps({"force_zeros_for_empty_prompt": False}))
    maker = PromptMaker(with_texts(denoiser, folder, SDXL_TEXTS, SDXL_PORTS), guided=True)
    pipe = pipeline(folder, "StableDiffusionXLPipeline", force_zeros_for_empty_prompt=False)
    expected = encoded(pipe, PROMPTS, None, None)
    (tmp_path / "out").mkdir()
    assert difference(played(maker, tmp_path / "out", [*PROMPTS, "", "", ""]), expected) <= BOUND
    assert np.abs(expected["embeds"][3:]).max() > 0.1


def test_without_guidance_an_empty_prompt_is_no_negative_one(denoiser: LoadedModel, tmp_path: Path) -> None:
    folder = save_sdxl_texts(tmp_path / "texts")
    maker = PromptMaker(with_texts(denoiser, folder, SDXL_TEXTS, SDXL_PORTS), guided=False)
    (tmp_path / "out").mkdir()
    found = played(maker, tmp_path / "out", ["a red circle", ""])
    assert np.abs(found["embeds"][1]).max() > 0.1


@pytest.mark.parametrize(
    ("clip_skip", "message"), [(3, r"--clip-skip 3: must be within 0 \.\. 2"), (-1, r"--clip-skip -1: must be within")]
)
def test_more_layers_than_there_are_cannot_be_skipped(
    clip_skip: int, message: str, denoiser: LoadedModel, tmp_path: Path
) -> None:
    loaded = with_texts(denoiser, save_sd_texts(tmp_path / "texts", 1), SD_TEXTS, SD_PORTS, clip_skip)
    with pytest.raises(UsageError, match=message):
        PromptMaker(loaded, guided=True).encode(["red"])


def test_clip_skip_is_refused_where_it_would_have_no_effect(denoiser: LoadedModel, tmp_path: Path) -> None:
    for save, recipe in ((save_flux_texts, FLUX.texts), (lambda folder: folder, SD_TEXTS), (save_sdxl_texts, NO_TEXT)):
        folder = save(tmp_path / f"texts{len(list(tmp_path.iterdir()))}")
        loaded = with_texts(denoiser, folder, recipe, FLUX_PORTS, clip_skip=1)
        with pytest.raises(UsageError, match="--clip-skip 1: tiny takes no hidden state of a CLIP text encoder"):
            PromptMaker(loaded, guided=True)


def _remove(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / part).rename(folder / f"no-{part}")

    return change


def _set(part: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove("text_encoder_2"), "no text_encoder_2/, which its prompts need; add it, or build with"),
        (_remove("tokenizer_2"), "no tokenizer_2/, which text_encoder_2 needs; add it, or build with"),
        (_set("text_encoder", hidden_size=64), r"give embeds of 104 numbers, the denoiser takes 72"),
        (_set("text_encoder_2", projection_dim=16), r"give pooled_embeds of 16 numbers, the denoiser takes 24"),
        (_set("text_encoder", max_position_embeddings=64), "takes 64 tokens, a prompt has 77"),
        (_set("text_encoder", use_attention_mask=True), "use_attention_mask is set"),
        (_set("text_encoder_2", architectures=["BertModel"], model_type="bert"), "text encoder 'BertModel' is not"),
        (_set("text_encoder_2", architectures=["T5EncoderModel"], model_type="t5"), "T5EncoderModel gives no penu"),
    ],
)  # fmt: skip
def test_encoders_that_do_not_fit_are_refused_in_one_line(
    change: Callable[[Path], None], message: str, denoiser: LoadedModel, tmp_path: Path
) -> None:
    folder = save_sdxl_texts(tmp_path / "texts")
    change(folder)
    with pytest.raises(ModelError, match=message) as refused:
        PromptMaker(with_texts(denoiser, folder, SDXL_TEXTS, SDXL_PORTS), guided=True).encode(["red"])
    assert "\n" not in str(refused.value)
