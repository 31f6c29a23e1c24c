"""What diffusers' own pipelines make of prompts, and how far from it something is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from tests.text_toys import T5_TOKENS

Ports = dict[str, np.ndarray[Any, Any]]
BOUND = 1e-4


def pipeline(folder: Path, kind: str, **settings: Any) -> Any:
    """diffusers' own, with text parts alone, but for those in settings."""
    parts: dict[str, Any] = {}
    for number in ("", "_2", "_3"):
        if kind != "StableDiffusionPipeline" or not number:
            path = folder / f"tokenizer{number}"
            parts[f"tokenizer{number}"] = transformers.AutoTokenizer.from_pretrained(path) if path.is_dir() else None
            path = folder / f"text_encoder{number}"
            parts[f"text_encoder{number}"] = _encoder(path) if path.is_dir() else None
    if kind in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        parts |= {"unet": None, "scheduler": diffusers.DDIMScheduler(), "vae": None}
        parts |= {"safety_checker": None, "feature_extractor": None} if kind == "StableDiffusionPipeline" else {}
    else:
        parts |= {"transformer": None, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(), "vae": None}
    if kind in ("StableDiffusionXLPipeline", "FluxPipeline"):
        parts = {name: part for name, part in parts.items() if not name.endswith("_3")}
    return getattr(diffusers, kind)(**{**parts, **settings})


def _encoder(path: Path) -> Any:
    kind = json.loads((path / "config.json").read_text())["architectures"][0]
    encoder = getattr(transformers, kind).from_pretrained(path).eval()
    if kind == "CLIPTextModel":  # where diffusers looks for the norm, and transformers had it until version 5
        object.__setattr__(encoder, "text_model", SimpleNamespace(final_layer_norm=encoder.final_layer_norm))
    return encoder


@torch.no_grad()
def encoded(pipe: Any, prompts: list[str], negatives: list[str] | None, clip_skip: int | None) -> Ports:
    """What encode_prompt gives, the conditional rows first; no negative ones for FLUX.1."""
    kind, words = type(pipe).__name__, {"negative_prompt": negatives, "clip_skip": clip_skip, "device": "cpu"}
    if kind == "FluxPipeline":
        embeds, pooled, _ = pipe.encode_prompt(prompts, None, device="cpu", max_sequence_length=T5_TOKENS)
        return {"embeds": embeds.numpy(), "pooled_embeds": pooled.numpy()}
    if kind == "StableDiffusionPipeline":
        sides = pipe.encode_prompt(prompts, num_images_per_prompt=1, do_classifier_free_guidance=True, **words)
    elif kind == "StableDiffusionXLPipeline":
        sides = pipe.encode_prompt(prompts, **words)
    else:
        pipe.transformer = SimpleNamespace(config=SimpleNamespace(joint_attention_dim=80))
        sides = pipe.encode_prompt(prompts, None, None, max_sequence_length=T5_TOKENS, **words)
    names = ("embeds", "pooled_embeds")[: len(sides) // 2]
    return {name: torch.cat(sides[2 * i : 2 * i + 2]).numpy() for i, name in enumerate(names)}


def difference(found: Mapping[str, Any], expected: Ports) -> float:
    """The largest difference of a port relative to its largest magnitude."""
    assert list(found) == list(expected)
    assert [np.shape(found[name]) for name in found] == [value.shape for value in expected.values()]
    return max(float(np.abs(np.asarray(found[n]) - right).max() / np.abs(right).max()) for n, right in expected.items())


def musicldm_pipeline(folder: Path, vocoder: Any = None) -> Any:
    """diffusers' MusicLDMPipeline. Text features are the object that transformers gave before version 5. vocoder:
    in the place of the folder's own."""
    parts = {
        part: getattr(diffusers, kind).from_pretrained(folder / part).eval()
        for part, kind in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"))
    }
    encoder = transformers.ClapModel.from_pretrained(folder / "text_encoder").eval()
    own = encoder.get_text_features
    encoder.get_text_features = lambda *args, **kwargs: own(*args, **kwargs).pooler_output
    pipe = diffusers.MusicLDMPipeline(
        **parts, text_encoder=encoder, tokenizer=transformers.RobertaTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=diffusers.DDIMScheduler.from_pretrained(folder / "scheduler"), feature_extractor=None,
        vocoder=vocoder or transformers.SpeechT5HifiGan.from_pretrained(folder / "vocoder").eval(),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe
