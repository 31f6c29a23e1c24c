"""Conditions by port: classes and texts in turn, what guidance steers away from behind them, files of embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from soda_export.eager.conditions import Conditions, own_conditions, random_texts, read_prompts, read_texts
from soda_export.errors import UsageError
from soda_export.models.spec import ModelSpec, Port
from tests.plan.problems import SHAPES, TOY

TEXTS = ModelSpec(
    "texts", "flux", "0" * 64, (), (
        Port("embeds", "embedding", (5, 3)), Port("pooled_embeds", "embedding", (7,)),
        Port("attention_mask", "mask", (5,)), Port("distilled_guidance", "scalar", default=3.5),
    ), (16, 4), (16, 4), "latents",
)  # fmt: skip


def test_every_class_takes_its_turn_and_the_null_class_follows() -> None:
    conditions = own_conditions(TOY)
    assert conditions.rows(range(8, 12), 2)["labels"].tolist() == [8, 9, 0, 1, 10, 10, 10, 10]
    assert conditions.rows([3], 1)["labels"].tolist() == [3]


def test_random_texts_depend_on_the_seed_alone() -> None:
    a, b, c = (random_texts(TEXTS, 4, seed) for seed in (1, 1, 2))
    assert torch.equal(a.positive["embeds"], b.positive["embeds"])
    assert not torch.equal(a.positive["embeds"], c.positive["embeds"])
    assert {name: tuple(t.shape) for name, t in a.positive.items()} == {
        "embeds": (4, 5, 3), "pooled_embeds": (4, 7), "attention_mask": (4, 5),
    }  # fmt: skip
    assert (a.negative["embeds"].shape, a.negative["attention_mask"].dtype) == ((1, 5, 3), torch.int64)


def test_texts_take_turns_and_the_unconditional_rows_follow() -> None:
    texts = random_texts(TEXTS, 2, 0)
    rows = (own_conditions(TEXTS) | texts).rows(range(1, 4), 2)
    for port in ("embeds", "pooled_embeds"):
        assert torch.equal(rows[port][:3], texts.positive[port][[1, 0, 1]])
        assert torch.equal(rows[port][3:], texts.negative[port].expand_as(rows[port][3:]))
    assert rows["attention_mask"].shape == (6, 5)
    assert rows["distilled_guidance"].tolist() == [3.5] * 6  # of the sample, in all of its rows
    assert texts.rows(range(3), 1)["embeds"].shape == (3, 5, 3)
    assert own_conditions(TEXTS, {"distilled_guidance": 2.0}).rows([0], 1)["distilled_guidance"].tolist() == [2.0]


def embeddings(count: int = 2) -> dict[str, Tensor]:
    """As diffusers' encode_prompt names them."""
    made = {}
    for prefix, n in (("", count), ("negative_", 1)):
        made[f"{prefix}prompt_embeds"] = torch.randn(n, 5, 3)
        made[f"{prefix}pooled_prompt_embeds"] = torch.randn(n, 7)
        made[f"{prefix}prompt_attention_mask"] = torch.ones(n, 5)
    return made


def read(path: Path, tensors: dict[str, Tensor], negative: bool = True) -> Conditions:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "x.safetensors")
    return read_texts(path / "x.safetensors", TEXTS, negative)


def test_embeddings_are_read_by_the_names_that_diffusers_gives_them(tmp_path: Path) -> None:
    given = embeddings()
    found = read(tmp_path, given)
    assert torch.equal(found.positive["pooled_embeds"], given["pooled_prompt_embeds"])
    assert torch.equal(found.negative["embeds"], given["negative_prompt_embeds"])
    assert found.positive["attention_mask"].dtype == torch.int64


def test_without_guidance_no_negative_embeddings_are_asked_for(tmp_path: Path) -> None:
    given = {name: tensor for name, tensor in embeddings().items() if "negative" not in name}
    assert not read(tmp_path, given, negative=False).negative
    with pytest.raises(UsageError, match="lacks negative_prompt_embeds"):
        read(tmp_path, given)


def _drop(tensors: dict[str, Tensor]) -> None:
    del tensors["negative_prompt_attention_mask"]


def _narrow(tensors: dict[str, Tensor]) -> None:
    tensors["prompt_embeds"] = tensors["prompt_embeds"][:, :, :2]


def _short_mask(tensors: dict[str, Tensor]) -> None:
    tensors["prompt_attention_mask"] = tensors["prompt_attention_mask"][:, :4]


def _another_count(tensors: dict[str, Tensor]) -> None:
    tensors["pooled_prompt_embeds"] = tensors["pooled_prompt_embeds"][:1]


def _empty(tensors: dict[str, Tensor]) -> None:
    for name in ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds"):
        tensors[name] = tensors[name][:0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, "lacks negative_prompt_attention_mask"),
        (_narrow, r"prompt_embeds \[2, 5, 2\]; the model takes \[n, 5, 3\]"),
        (_short_mask, r"prompt_attention_mask \[2, 4\]; the model takes \[n, 5\]"),
        (_another_count, r"pooled_prompt_embeds \[1, 7\]"),
        (_empty, r"prompt_embeds \[0, 5, 3\]"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(tmp_path: Path, change: object, message: str) -> None:
    tensors = embeddings()
    change(tensors)  # type: ignore[operator]
    with pytest.raises(UsageError, match=message) as refused:
        read(tmp_path, tensors)
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UsageError, match=r"--profile-embeds .*x\.safetensors"):
        read_texts(path, SHAPES)
    path.write_bytes(b"no tensors")
    with pytest.raises(UsageError, match=r"--profile-embeds .*x\.safetensors"):
        read_texts(path, SHAPES)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UsageError, match=r"empty\.txt: has no prompts"):
        read_prompts(tmp_path / "empty.txt")
    with pytest.raises(UsageError, match=r"missing\.txt: cannot be read"):
        read_prompts(tmp_path / "missing.txt")
    (tmp_path / "prompts.txt").write_text("a fox\n\n a cat \n")
    assert read_prompts(tmp_path / "prompts.txt") == ["a fox", "a cat"]
