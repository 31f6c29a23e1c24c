"""The unmodified module under hooks: the same numbers, given ones, renewed ones, and no block where none is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from soda_export.eager.model import EagerModel
from soda_export.eager.sites import SiteCall
from soda_export.eager.tokens import gather_tokens
from soda_export.errors import InternalError, ModelError
from soda_export.models.family import SiteRule
from soda_export.models.load import load_model
from soda_export.models.paths import SiteModule
from tests.eager.toys import draw, toy_conditions, toy_dit, toy_flux, toy_pixart, toy_sd3
from tests.tiny_models import save_tiny_pixart

MakeToy = Callable[[], EagerModel]
TOYS = pytest.mark.parametrize("make", [toy_dit, toy_pixart])
JOINT = pytest.mark.parametrize("make", [toy_flux, toy_sd3])
ROWS = 4


def inputs_of(model: EagerModel) -> tuple[Tensor, dict[str, Tensor]]:
    latents = torch.cat([draw(ROWS // 2, *model.spec.latent_shape, seed=3)] * 2)
    return latents, toy_conditions(model).rows(range(ROWS // 2), 2)


def plain_call(model: EagerModel, latents: Tensor, timestep: int, inputs: dict[str, Tensor]) -> Tensor:
    """As the pipelines of diffusers call it."""
    times = torch.tensor([timestep]).expand(len(latents))
    with torch.no_grad():
        if model.family.name == "dit":
            return model.module(latents, timestep=times, class_labels=inputs["labels"]).sample
        side = 8.0 * model.spec.latent_shape[-1]
        return model.module(
            latents, encoder_hidden_states=inputs["embeds"], encoder_attention_mask=inputs["attention_mask"],
            timestep=times, added_cond_kwargs={
                "resolution": torch.tensor([[side, side]]).repeat(ROWS, 1),
                "aspect_ratio": torch.tensor([[1.0]]).repeat(ROWS, 1),
            },
        ).sample  # fmt: skip


@TOYS
def test_everything_computed_is_the_plain_module_bit_for_bit(make: MakeToy) -> None:
    model = make()
    latents, inputs = inputs_of(model)
    expected = plain_call(model, latents, 601, inputs)
    asked = []

    def on_site(k: int, call: SiteCall) -> tuple[Tensor, ...]:
        asked.append(model.spec.sites[k].name)
        return call.compute()

    assert torch.equal(model.call(latents, 601, inputs), expected)
    assert torch.equal(model.call(latents, 601, inputs, on_site), expected)
    last = [name for name in asked if name.startswith("transformer_blocks.2")]
    assert last[0] == "transformer_blocks.2"  # a site is asked about before those inside it
    assert sorted(asked) == sorted(site.name for site in model.spec.sites)


@JOINT
def test_joint_attention_hands_over_both_streams_and_changes_nothing(make: MakeToy) -> None:
    model = make()
    latents, inputs = inputs_of(model)
    shapes: dict[int, tuple[tuple[int, ...], ...]] = {}
    kept: dict[int, tuple[Tensor, ...]] = {}

    def keep(k: int, call: SiteCall) -> tuple[Tensor, ...]:
        kept[k] = call.compute()
        shapes[k] = tuple(tuple(value.shape[1:]) for value in kept[k])
        return kept[k]

    expected = model.call(latents, 601, inputs)
    assert torch.equal(model.call(latents, 601, inputs, keep), expected)
    assert shapes == {k: site.outputs for k, site in enumerate(model.spec.sites)}
    assert any(len(site.outputs) == 2 for site in model.spec.sites)
    leaves = frozenset(model.spec.leaves)
    found = model.call(latents, 601, inputs, lambda k, call: kept[k] if k in leaves else call.compute(), leaves)
    assert torch.equal(found, expected)
    stack = model.spec.stack
    assert stack is not None
    found = model.call(latents, 601, inputs, lambda k, call: kept[k] if k == stack else (), {stack})
    assert torch.equal(found, expected)
    assert not torch.equal(model.call(latents, 601, inputs, lambda k, call: (2 * kept[k][0],), {stack}), expected)


@TOYS
def test_after_a_call_the_module_is_as_diffusers_made_it(make: MakeToy) -> None:
    model = make()
    latents, inputs = inputs_of(model)

    def fails(k: int, call: SiteCall) -> tuple[Tensor, ...]:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        model.call(latents, 601, inputs, fails)
    assert not [name for name, module in model.module.named_modules() if "forward" in vars(module)]


@TOYS
def test_a_given_output_replaces_the_modules_own(make: MakeToy) -> None:
    model = make()
    latents, inputs = inputs_of(model)
    which = next(k for k, site in enumerate(model.spec.sites) if site.kind == "ff")
    given = draw(ROWS, *model.spec.sites[which].outputs[0], seed=5)

    def on_site(k: int, call: SiteCall) -> tuple[Tensor, ...]:
        return (given,) if k == which else call.compute()

    handle = model.module.get_submodule(model.spec.sites[which].name).register_forward_hook(lambda *_: given)
    expected = plain_call(model, latents, 601, inputs)
    handle.remove()
    found = model.call(latents, 601, inputs, on_site)
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain_call(model, latents, 601, inputs))


@TOYS
def test_with_the_stack_given_no_block_runs(make: MakeToy) -> None:
    model = make()
    latents, inputs = inputs_of(model)
    stack = model.spec.stack
    assert stack is not None
    kept: list[tuple[Tensor, ...]] = []

    def keep(k: int, call: SiteCall) -> tuple[Tensor, ...]:
        outputs = call.compute()
        if k == stack:
            kept.append(outputs)
        return outputs

    expected = model.call(latents, 601, inputs, keep)
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in model.module.named_modules()
        if name.startswith("transformer_blocks.") and name.count(".") > 1 and "norm1" not in name
    ]
    asked: list[int] = []

    def give(k: int, call: SiteCall) -> tuple[Tensor, ...]:
        asked.append(k)
        return kept[0]

    assert torch.equal(model.call(latents, 601, inputs, give, {stack}), expected)
    assert asked == [stack]
    assert not ran
    for handle in handles:
        handle.remove()
    half = {name: tensor[:2] for name, tensor in inputs.items()}
    model.call(latents[:2], 601, half, lambda k, call: (kept[0][0][:2],), {stack})


def test_a_stack_that_was_never_computed_cannot_be_given() -> None:
    model = toy_dit()
    latents, inputs = inputs_of(model)
    stack = model.spec.stack
    assert stack is not None
    with pytest.raises(InternalError, match=r"transformer_blocks\.0.*before it was ever computed"):
        model.call(latents, 601, inputs, lambda k, call: (draw(ROWS, 16, 16),), {stack})


@TOYS
def test_renewed_tokens_are_those_of_a_full_computation(make: MakeToy) -> None:
    model = make()
    latents, inputs = inputs_of(model)
    indices = torch.stack([torch.randperm(16)[:5] for _ in range(ROWS)])
    worst = {}

    def on_site(k: int, call: SiteCall) -> tuple[Tensor, ...]:
        outputs = call.compute()
        site = model.spec.sites[k]
        if site.tokens:
            expected = gather_tokens(outputs[0], indices)
            worst[k] = float((call.renew(indices) - expected).abs().max() / expected.abs().max())
        return outputs

    model.call(latents, 601, inputs, on_site)
    assert len(worst) == len(model.spec.sites) - 1
    print(f"{model.family.name}: renewed tokens differ by {max(worst.values()):.1e}")
    assert max(worst.values()) < 1e-5


def test_a_site_that_cannot_be_renewed_says_so() -> None:
    model = toy_dit()
    latents, inputs = inputs_of(model)
    stack = model.spec.stack

    def on_site(k: int, call: SiteCall) -> tuple[Tensor, ...]:
        if k == stack:
            call.renew(torch.zeros(ROWS, 1, dtype=torch.int64))
        return call.compute()

    with pytest.raises(InternalError, match="cannot be renewed singly"):
        model.call(latents, 601, inputs, on_site)


@TOYS
def test_matrix_products_in_bf16_stay_close(make: MakeToy) -> None:
    model = make()
    latents, inputs = inputs_of(model)
    full, half = (m.call(latents, 601, inputs) for m in (model, model.with_products(torch.bfloat16)))
    error = float((full - half).norm() / full.norm())
    assert half.dtype == torch.float32
    assert 0 < error < 0.02


def test_a_timestep_between_whole_ones_reaches_the_model() -> None:
    model = toy_dit()
    latents, inputs = inputs_of(model)
    a, b, c = (model.call(latents, t, inputs) for t in (600, 600.5, 601))
    assert not torch.equal(a, b)
    assert not torch.equal(b, c)


def test_a_description_of_another_model_is_refused() -> None:
    model, other = toy_dit(), toy_dit(num_layers=2)
    with pytest.raises(ModelError, match=r"no transformer_blocks\.2"):
        EagerModel(other.module, other.family, model.spec, {})


class TwoStreams(torch.nn.Module):
    """A block that returns a text's and an image's tokens, and no text's in the last layer."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, text: Tensor, image: Tensor) -> tuple[Tensor | None, Tensor]:
        return None if self.last else text + 1, image + text.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("last", [False, True])
def test_a_site_of_several_outputs_is_handed_over_and_replaced_in_its_places(last: bool) -> None:
    from soda_export.eager.sites import HookedSite

    block = TwoStreams(last)
    rule = SiteRule("blocks.*", "block", outputs=(0, 1))
    hooked = HookedSite(SiteModule(rule, "blocks.0", block))
    text, image = draw(2, 3, 4), draw(2, 5, 4, seed=1)
    call = SiteCall(hooked, block.forward, (text,), {"image": image})
    values = call.compute()
    assert [tuple(v.shape) for v in values] == ([] if last else [(2, 3, 4)]) + [(2, 5, 4)]
    given = SiteCall(hooked, block.forward, (text,), {"image": image}).packed([v + 1 for v in values])
    assert len(given) == 2
    assert (given[0] is None) == last
    assert torch.equal(given[1], values[-1] + 1)


def test_sites_stand_in_the_order_of_computation(tmp_path: Path) -> None:
    folder = save_tiny_pixart(tmp_path / "model", vae=False, text=False)
    names = [site.name for site in load_model(str(folder)).spec.sites]
    assert names[:3] == [f"transformer_blocks.0.{part}" for part in ("attn1", "attn2", "ff")]
    assert names[-1] == "transformer_blocks.2"
