"""Texts are encoded for planning by the module itself, widened a module at a time."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from soda_runtime.text import PromptTokenizer
from torch import Tensor

from soda_export.errors import ModelError

from .text_folders import (
    WEIGHTS,
    T,
    encode,
    reshape_table,
    save_t5,
    save_tokenizer,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ["1GB", "12KB"])
def test_texts_are_encoded_in_float32_by_the_module_itself(dtype: torch.dtype, size: str, tmp_path: Path) -> None:
    model = save_t5(tmp_path, "gated-gelu").to(dtype)
    model.save_pretrained(tmp_path, max_shard_size=size)
    if size != "1GB":
        (tmp_path / WEIGHTS).unlink()
    save_tokenizer(tmp_path)
    made = encode(tmp_path, ["red r", ""])
    ids, mask = (torch.from_numpy(a) for a in PromptTokenizer(tmp_path / "tokenizer.json", T)(["red r", ""]))
    with torch.no_grad():
        expected = model.float()(ids, attention_mask=mask).last_hidden_state
    assert torch.equal(made["attention_mask"], mask)
    torch.testing.assert_close(made["embeds"], expected, rtol=0, atol=1e-5)


def test_encoding_widens_one_module_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_t5(tmp_path, "gated-gelu").to(torch.bfloat16).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
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
    encode(tmp_path, ["red"])
    assert len(counts) == 3 + 9 * 2
    assert set(counts) == {0}


def test_encoding_refuses_weights_of_other_sizes(tmp_path: Path) -> None:
    save_t5(tmp_path, "gated-gelu")
    reshape_table(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ModelError, match=r"config\.json: says .* is \[60, 32\], stored \[61, 32\]"):
        encode(tmp_path, ["red"])
