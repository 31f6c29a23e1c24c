"""Problems to plan for: models of transformer blocks from closed formulas, and maps made up with errors that grow."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from soda_export.models.decisions import COMPUTE, IDLE
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.spec import STACK, ModelSpec, Port, Site
from soda_export.plan.plan import Plan
from soda_export.plan.problem import Problem
from soda_export.plan.schedule import Schedule
from soda_export.plan.sensitivity import FORMAT, MAX_INTERVAL, RATES, VERSION, MapInfo, SensitivityMap

_ATTRIBUTES = {"attn": "attn1", "cross_attn": "attn2", "ff": "ff"}


def blocks_spec(
    name: str, family: str, *, layers: int, tokens: int, width: int, heads: int, ff_width: int, text_tokens: int = 0,
    latent_shape: tuple[int, ...] = (4, 32, 32), hash: str = "0" * 64,
) -> ModelSpec:  # fmt: skip
    """A DiT, or with text tokens a PixArt: attention, cross-attention and feed-forward, and the last block.

    FLOPs in the papers' convention (docs/concepts.md), by closed formulas. k queries attend to n keys.
    """
    n, d, stack = tokens, width, f"transformer_blocks.{layers - 1}"
    attn = (2 * n * d * 2 * d, 2 * 2 * d * d + 2 * 2 * n * d + 5 * heads * n)
    cross = (0, 2 * 2 * d * d + 2 * 2 * text_tokens * d + 5 * heads * text_tokens)
    by_kind = {"attn": attn, "cross_attn": cross, "ff": (0, 2 * 2 * d * ff_width + 6 * ff_width)}
    if not text_tokens:
        del by_kind["cross_attn"]
    sites = [
        Site(
            name=f"transformer_blocks.{layer}.{_ATTRIBUTES[kind]}", kind=kind, depth=layer / max(1, layers - 1),
            outputs=((n, d),), flops=kept[0] + kept[1] * n, tokens=n, kept_flops=kept, inside=stack,
        )
        for layer in range(layers)
        for kind, kept in by_kind.items()
    ]  # fmt: skip
    once = (1 if text_tokens else layers) * 2 * d * 6 * d  # adaLN: one for all blocks of PixArt
    sites.append(Site(stack, STACK, 1.0, ((n, d),), layers * 3 * n * d, once_flops=once))
    ports = (Port("embeds", "embedding", (text_tokens, 64)), Port("attention_mask", "mask", (text_tokens,)))
    if not text_tokens:
        ports = (Port("labels", "label", num_classes=10, null_class=10),)
    return ModelSpec(name, family, hash, tuple(sites), ports, latent_shape, latent_shape, "latents")


TOY = blocks_spec("toy", "dit", layers=4, tokens=64, width=96, heads=4, ff_width=384, latent_shape=(1, 8, 8))
DIGITS = blocks_spec("digits-like", "dit", layers=6, tokens=64, width=96, heads=4, ff_width=384)
SHAPES = blocks_spec(
    "shapes-like", "pixart", layers=6, tokens=64, width=192, heads=6, ff_width=768, text_tokens=24, hash="1" * 64
)
DIT_XL = blocks_spec(
    "dit-xl-2-256", "dit", layers=28, tokens=256, width=1152, heads=16, ff_width=4608, hash="2" * 64
)
PIXART_XL = blocks_spec(
    "pixart-xl-2-256", "pixart", layers=28, tokens=256, width=1152, heads=16, ff_width=4608, text_tokens=120,
    hash="3" * 64,
)  # fmt: skip


def flux_spec(name: str, double: int, single: int, image: int, text: int, width: int) -> ModelSpec:
    """Joint blocks with outputs of two lengths, then blocks that are one site; nothing is renewed singly."""
    stack = f"single_transformer_blocks.{single - 1}"
    each, sites = 2 * 12 * width * width, []
    for layer in range(double):
        path, depth = f"transformer_blocks.{layer}", layer / max(1, double - 1)
        both = ((image, width), (text, width))
        sites.append(Site(f"{path}.attn", "attn", depth, both, (image + text) * each // 3, inside=stack))
        sites.append(Site(f"{path}.ff", "ff", depth, ((image, width),), image * each * 2 // 3, inside=stack))
        sites.append(Site(f"{path}.ff_context", "ff_context", depth, ((text, width),), text * each, inside=stack))
    for layer in range(single):
        path, depth = f"single_transformer_blocks.{layer}.proj_out", layer / max(1, single - 1)
        sites.append(Site(path, "single", depth, ((image + text, width),), (image + text) * each, inside=stack))
    sites.append(Site(stack, STACK, 1.0, ((image + text, width),), 3 * (double + single) * (image + text) * width))
    ports = (Port("embeds", "embedding", (text, 64)), Port("guidance", "scalar", default=3.5))
    return ModelSpec(name, "flux", "4" * 64, tuple(sites), ports, (image, 64), (image, 64), "latents")


FLUX = flux_spec("flux-like", 19, 38, 4096, 512, 3072)
FLUX_TOY = flux_spec("flux-toy", 2, 3, 32, 8, 16)
"""Several outputs, several sizes, nothing renewable."""

NESTED = ModelSpec(
    "nested", "unet", "5" * 64,
    (
        Site("down.attn", "attn", 0.0, ((64, 8),), 100_000, tokens=64, kept_flops=(20_000, 1250), inside="down"),
        Site("down.ff", "ff", 0.0, ((64, 8),), 200_000, tokens=64, kept_flops=(0, 3125), inside="down"),
        Site("down", "block", 0.0, ((64, 8), (16, 8)), 10_000),
        Site("mid", "resnet", 0.5, ((16, 8),), 300_000),
        Site("up.attn", "attn", 1.0, ((256, 4),), 400_000, tokens=256, kept_flops=(16_000, 1500), inside="up"),
        Site("up", "block", 1.0, ((256, 4),), 10_000),
    ),
    (Port("labels", "label", num_classes=10, null_class=10),), (4, 16, 16), (4, 16, 16), "latents",
)  # fmt: skip
"""No stack, sites within sites, several numbers of tokens."""

UNET = replace(NESTED, name="unet-like", sites=(
    *(replace(site, inside=site.inside or "deep") for site in NESTED.sites),
    Site("deep", "deep", 0.8, ((256, 4),), 50_000, inside="out"),
    Site("last", "resnet", 1.0, ((256, 4),), 80_000, inside="out"), Site("out", "stack", 1.0, ((4, 16, 16),), 5_000),
))  # fmt: skip
"""Everything but the last resnet lies inside the deep feature."""


def made_up_map(spec: ModelSpec, sampler: str, steps: int, guidance: float, seed: int = 0) -> SensitivityMap:
    """Errors that grow with distance and pruned share, and are larger at both ends of the run."""
    rng = np.random.default_rng(seed)
    shape, at = (steps, len(spec.sites), 1), np.arange(steps) / steps
    ends = 0.3 + 3 * np.exp(-(((at - 0.9) / 0.2) ** 2)) + np.exp(-at / 0.05)
    base = 0.01 * (rng.random(shape) + ends[:, None, None] * (1 + rng.random((1, *shape[1:]))))
    return _with_prune_errors(spec, SamplerIdentity(sampler, steps), guidance, base, rng)


def random_map(spec: ModelSpec = TOY, steps: int = 50, seed: int = 0) -> SensitivityMap:
    """Errors that grow with distance, anything else by chance."""
    rng = np.random.default_rng(seed)
    base = rng.random((steps, len(spec.sites), 1)) * 0.02
    return _with_prune_errors(spec, SamplerIdentity("ddim", steps), 1.5, base, rng)


def _with_prune_errors(
    spec: ModelSpec, sampler: SamplerIdentity, guidance: float, base: NDArray[np.float64], rng: np.random.Generator
) -> SensitivityMap:
    reuse = base * np.arange(1, MAX_INTERVAL + 1) ** 1.3
    prune = reuse[..., None] * np.array(RATES) ** rng.uniform(1.2, 3.0, (*base.shape, 1))
    for t in range(sampler.steps):
        reuse[t, :, t:], prune[t, :, t:] = np.nan, np.nan
    prune[:, [site.tokens == 0 for site in spec.sites]] = np.nan
    info = MapInfo(FORMAT, VERSION, identify(spec), sampler, guidance, 8, 0, "cosine", "mean")
    arrays = (reuse, reuse * 0.1, prune, prune * 0.1)
    return SensitivityMap(info, *(array.astype(np.float32) for array in arrays))


_PROBLEMS: dict[tuple[str, str, int, float], Problem] = {}


def problem(spec: ModelSpec, sampler: str, steps: int, guidance: float = 1.5) -> Problem:
    """A problem with a made-up map."""
    key = (spec.name, sampler, steps, guidance)
    if key not in _PROBLEMS:
        _PROBLEMS[key] = Problem(spec, sampler, steps, guidance, made_up_map(spec, sampler, steps, guidance))
    return _PROBLEMS[key]


def ratio_of(schedule: Schedule, case: Problem) -> float:
    """FLOPs of computing everything / FLOPs of the schedule."""
    return schedule.flops_ratio(case.spec, case.rows)


def plan_of(spec: ModelSpec, work: NDArray[np.int64], sampler: str = "ddim", guidance: float = 1.5) -> Plan:
    """A hand-made plan for the work [S, K] of every site."""
    return Plan(identify(spec), SamplerIdentity(sampler, len(work)), guidance, Schedule(work))


def full_work(spec: ModelSpec, steps: int) -> NDArray[np.int64]:
    """[S, K], everything computed."""
    return Schedule.full(spec, steps).work


def at(spec: ModelSpec, kind: str) -> list[int]:
    """Numbers of the sites of a kind."""
    return list(spec.kinds[kind])


def check_history(schedule: Schedule) -> None:
    """The first step computes everything, and every forecast has outputs enough. Site by site, on purpose."""
    assert (schedule.work[0] == COMPUTE).all()
    for work in schedule.work.T.tolist():
        computed = 0
        for does in work:
            if does == COMPUTE:
                computed += 1
            elif does != IDLE:
                assert does >= 0 or -does < computed
