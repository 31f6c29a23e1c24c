"""The exported CLIP encoder is transformers' own, whatever its tensors are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from soda_export.export.text_encoder import TEXT_ENCODER_NAME, export_text_encoder

from .text_folders import (
    PART,
    WEIGHTS,
    T,
    prompt_model,
)

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
    wanted = prompt_model(folder, PART, embeds="penultimate", pooled_embeds="pooled")
    export_text_encoder(wanted, {PART.name: folder}, folder, precision=precision)
    return wanted.ports


def _run_clip(out: Path, ids: Tensor) -> list[np.ndarray[Any, Any]]:
    session = ort.InferenceSession(out / TEXT_ENCODER_NAME, providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["input_ids"]  # pipelines give CLIP no mask
    result: list[np.ndarray[Any, Any]] = session.run(["embeds", "pooled_embeds"], {"input_ids": ids.numpy()})
    return result


@pytest.mark.parametrize(
    ("precision", "bound"), [("fp32", 1e-5), pytest.param("fp16", 0.01, marks=pytest.mark.long)]
)
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
