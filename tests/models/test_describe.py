"""What a site stands for: shapes, FLOPs in the papers' convention, what is inside what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soda_export.models.decisions import COMPUTE, IDLE, REUSE
from soda_export.models.flops import full_step_flops, site_flops, step_flops
from soda_export.models.load import ModelRequest, load_model
from soda_export.models.spec import ModelSpec, Site
from tests.tiny_models import (
    save_tiny_flux,
    save_tiny_model,
    save_tiny_musicldm,
    save_tiny_opensora,
    save_tiny_pixart,
    save_tiny_sana,
    save_tiny_sd3,
    save_tiny_unet,
    save_tiny_wan,
)

TOTALS = {
    ("dit-xl-2-256", 2): 0.474706, ("pixart", 2): 2.440180, ("flux-dev", 1): 74.506478, ("flux-schnell", 1): 69.592510,
    ("sd3-medium", 2): 17.908031, ("sd3.5-medium", 2): 22.650665, ("sd3.5-large", 2): 62.500077,
    ("sd-1.5", 2): 1.608454, ("sd-2.1", 2): 4.316115, ("sdxl", 2): 13.453251, ("sdxl-turbo", 1): 1.537975,
    ("musicldm", 2): 0.2077613,
}  # fmt: skip


def published(name: str) -> ModelSpec:
    return load_model(ModelRequest(name, random_weights=0)).spec


def kinds(spec: ModelSpec) -> dict[str, list[Site]]:
    return {kind: [spec.sites[k] for k in numbers] for kind, numbers in spec.kinds.items()}


@pytest.mark.parametrize(("name", "rows"), TOTALS)
def test_a_step_of_a_published_model_costs(name: str, rows: int) -> None:
    """DiT-XL/2's is the figure of the ToCa, DuCa and SODA papers; FLUX.1-dev's is known as 74.4 TFLOPs without them."""
    assert full_step_flops(published(name), rows) / 1e12 == pytest.approx(TOTALS[name, rows], rel=1e-6)


def test_fifty_steps_of_dit_xl_2_are_those_of_the_papers() -> None:
    step = full_step_flops(published("dit-xl-2-256"), 2)
    for steps, reported in ((1, 0.474706), (50, 23.735), (250, 118.676)):
        assert steps * step / 1e12 == pytest.approx(reported, rel=1e-4)


def test_a_pixart_step_is_the_one_counted_by_hand(tmp_path: Path) -> None:
    folder = save_tiny_pixart(tmp_path / "model", vae=False, text=False)
    spec, n, d, heads, texts = load_model(str(folder)).spec, 16, 48, 2, 120
    # projections of q, k, v and of the output; scores and weighted sums; softmax
    attn = 2 * n * d * 3 * d + 2 * n * d * d + 2 * (2 * n * n * d) + 5 * heads * n * n
    # queries and outputs alone: keys and values of the caption are made once a request
    cross = 2 * (2 * n * d * d) + 2 * (2 * n * texts * d) + 5 * heads * n * texts
    ff = 2 * (2 * n * d * 4 * d) + 6 * n * 4 * d  # up, down; gelu
    for site in kinds(spec)["attn"]:
        assert (site.flops, site.kept_flops[0], site.tokens) == (attn, 2 * n * d * 2 * d, n)
    assert {site.flops for site in kinds(spec)["cross_attn"]} == {cross}
    assert {site.flops for site in kinds(spec)["ff"]} == {ff}
    (stack,) = kinds(spec)["stack"]
    assert (stack.flops, stack.once_flops) == (3 * 3 * n * d, 2 * d * 6 * d)  # gated sums; adaLN-single
    assert full_step_flops(spec, rows=2) == 2 * (3 * (attn + cross + ff) + 9 * n * d) + 12 * d * d
    # half of the tokens: half of cross-attention and feed-forward, and attention's keys and values of all tokens
    half = 2 * (n // 2) * d * 2 * d + 2 * n * d * 2 * d + 2 * (2 * (n // 2) * n * d) + 5 * heads * (n // 2) * n
    assert [site_flops(site, 8) for site in spec.sites[:3]] == [half, cross // 2, ff // 2]
    does = [REUSE, REUSE, REUSE, 8, COMPUTE, REUSE, REUSE, REUSE, REUSE, COMPUTE]
    assert step_flops(spec, 1, does) == 12 * d * d + 9 * n * d + half + cross
    assert step_flops(spec, 2, [IDLE] * 9 + [REUSE]) == 0


@pytest.mark.parametrize(
    "save",
    [
        save_tiny_model, save_tiny_pixart, save_tiny_flux, save_tiny_sd3, save_tiny_sana, save_tiny_opensora,
        save_tiny_unet, save_tiny_musicldm, save_tiny_wan,
    ],
)
def test_renewing_every_token_costs_what_the_site_costs(tmp_path: Path, save: Any) -> None:
    spec = load_model(str(save(tmp_path / "model"))).spec
    renewable = [site for site in spec.sites if site.tokens]
    assert renewable
    for site in renewable:
        fixed, each = site.kept_flops
        assert fixed + each * site.tokens == site.flops
        assert site.outputs[0][0] == site.tokens
    depths = [site.depth for site in spec.sites]
    assert (depths[-1], depths) == (1.0, sorted(depths))
    assert spec.stack == len(spec.sites) - 1
    if save not in (save_tiny_unet, save_tiny_musicldm):  # whose sites lie inside one another
        assert {site.inside for site in spec.sites[:-1]} == {spec.sites[-1].name}
        assert depths[0] == 0.0


def test_a_flux_has_double_and_single_sites(tmp_path: Path) -> None:
    spec = load_model(ModelRequest(str(save_tiny_flux(tmp_path / "model")), image_size=16)).spec
    assert [site.name for site in spec.sites] == [
        *(f"transformer_blocks.{i}.{name}" for i in range(2) for name in ("attn", "ff", "ff_context")),
        *(f"single_transformer_blocks.{i}.proj_out" for i in range(2)), "single_transformer_blocks.1",
    ]  # fmt: skip
    found, tokens, d = kinds(spec), 16 + 512, 48
    assert {site.outputs for site in found["joint_attn"]} == {((16, d), (512, d))}
    assert found["stack"][0].outputs == ((16, d),)
    # a single block is its site: q, k, v, attention, the feed-forward's way up with gelu, and the product of both
    single = 2 * tokens * d * 3 * d + 4 * tokens * tokens * d + 5 * 2 * tokens**2
    single += 2 * tokens * d * 4 * d + 6 * tokens * 4 * d + 2 * tokens * 5 * d * d
    assert [site.flops for site in found["single"]] == [single] * 2
    # in the first block q, k and v of the text are known before the first step
    first, second = (site.flops for site in found["joint_attn"])
    assert second - first == 2 * 512 * d * 3 * d
    assert [site.flops for site in found["ff_context"]] == [2 * 2 * 512 * d * 4 * d + 6 * 512 * 4 * d] * 2
    assert found["stack"][0].once_flops == 2 * d * d * (2 * (6 + 6) + 2 * 3)


def test_an_sd3_leaves_out_what_its_last_block_drops(tmp_path: Path) -> None:
    spec = load_model(str(save_tiny_sd3(tmp_path / "model"))).spec
    found, d = kinds(spec), 48
    assert [site.outputs for site in found["joint_attn"]] == [((16, d), (333, d))] * 2 + [((16, d),)]
    assert [site.name for site in found["attn"]] == ["transformer_blocks.0.attn2"]
    assert (len(found["ff"]), len(found["ff_context"])) == (3, 2)
    assert spec.index["transformer_blocks.0.attn2"] == 1
    second, last = (site.flops for site in found["joint_attn"][1:])
    assert second - last == 2 * 333 * d * d  # the text's output projection
    assert found["stack"][0].flops == 3 * d * (3 * 16 + 2 * 333)


def test_describing_flux_takes_no_memory_for_its_weights() -> None:
    import resource

    loaded = load_model(ModelRequest("flux-dev", random_weights=0))
    assert sum(1 for _ in loaded.weights.names) > 700
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3e6  # KB; its weights alone are 48 GB


def test_the_deep_feature_of_a_unet_contains_what_only_leads_to_it(tmp_path: Path) -> None:
    """XL's last block has no attention, so the cut is before it; what its skip connections bring is computed."""
    spec = load_model(str(save_tiny_unet(tmp_path / "model", "sdxl"))).spec
    within = {k for k, chain in enumerate(spec.containers) if spec.index["up_blocks.0"] in chain}
    assert {site.name for k, site in enumerate(spec.sites) if k not in within} == {
        "down_blocks.0.resnets.0.conv2", "up_blocks.0", "up_blocks.1.resnets.0.conv2", "up_blocks.1.resnets.1.conv2",
        "conv_out",
    }  # fmt: skip
    first = spec.index["down_blocks.1.attentions.0.transformer_blocks.0.attn1"]
    chain = ["down_blocks.1.attentions.0.proj_out", "up_blocks.0", "conv_out"]
    assert [spec.sites[k].name for k in spec.containers[first]] == chain


@pytest.mark.parametrize(("name", "share"), [("sdxl", 0.067), ("sd-2.1", 0.095), ("sd-1.5", 0.079)])
def test_a_step_with_the_deep_feature_reused_costs(name: str, share: float) -> None:
    spec = published(name)
    (deep,) = spec.kinds["deep"]
    work = [IDLE if deep in chain else COMPUTE for chain in spec.containers]
    work[deep] = REUSE
    assert step_flops(spec, 2, work) / full_step_flops(spec, 2) == pytest.approx(share, abs=0.001)
