"""Problems to plan for: sizes like the built-in models', and maps made up with errors that grow with distance."""

from __future__ import annotations

from functools import cache

import numpy as np

from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.spec import DenoiserSpec, LabelCondition, TextCondition
from soda_export.plan.problem import Problem
from soda_export.plan.schedule import BLOCKS_RUN, Schedule
from soda_export.plan.sensitivity import FORMAT, MAX_INTERVAL, RATES, VERSION, MapInfo, SensitivityMap

DIGITS = DenoiserSpec(
    name="digits-like", family="dit", hash="0" * 64, num_layers=6, modules=("attn", "ff"), num_tokens=64, width=96,
    num_heads=4, ff_width=384, latent_shape=(1, 8, 8), out_channels=1,
    condition=LabelCondition(num_classes=10, null_class=10), output="pixels",
)  # fmt: skip
SHAPES = DenoiserSpec(
    name="shapes-like", family="pixart", hash="1" * 64, num_layers=6, modules=("attn", "cross_attn", "ff"),
    num_tokens=64, width=192, num_heads=6, ff_width=768, latent_shape=(4, 16, 16), out_channels=8,
    condition=TextCondition(max_tokens=24, embed_width=64), output="latents",
)  # fmt: skip
DIT_XL = DenoiserSpec(
    name="dit-xl-2-256", family="dit", hash="2" * 64, num_layers=28, modules=("attn", "ff"), num_tokens=256, width=1152,
    num_heads=16, ff_width=4608, latent_shape=(4, 32, 32), out_channels=8,
    condition=LabelCondition(num_classes=1000, null_class=1000), output="latents",
)  # fmt: skip
PIXART_XL = DenoiserSpec(
    name="pixart-xl-2-256", family="pixart", hash="3" * 64, num_layers=28, modules=("attn", "cross_attn", "ff"),
    num_tokens=256, width=1152, num_heads=16, ff_width=4608, latent_shape=(4, 32, 32), out_channels=8,
    condition=TextCondition(max_tokens=120, embed_width=4096), output="latents",
)  # fmt: skip


def made_up_map(spec: DenoiserSpec, sampler: str, steps: int, guidance: float, seed: int = 0) -> SensitivityMap:
    """Errors that grow with distance and pruned share, and are larger at both ends of the run."""
    rng = np.random.default_rng(seed)
    shape, at = (steps, spec.num_layers, len(spec.modules), 1), np.arange(steps) / steps
    ends = 0.3 + 3 * np.exp(-(((at - 0.9) / 0.2) ** 2)) + np.exp(-at / 0.05)
    base = 0.01 * (rng.random(shape) + ends[:, None, None, None] * (1 + rng.random((1, *shape[1:]))))
    reuse = base * np.arange(1, MAX_INTERVAL + 1) ** 1.3
    prune = reuse[..., None] * np.array(RATES) ** rng.uniform(1.2, 3.0, (*shape, 1))
    for t in range(steps):
        reuse[t, :, :, t:], prune[t, :, :, t:] = np.nan, np.nan
    info = MapInfo(
        FORMAT, VERSION, identify(spec), SamplerIdentity(sampler, steps), guidance, 8, seed, "cosine", "mean"
    )
    arrays = (reuse, reuse * 0.1, prune, prune * 0.1, np.nan_to_num(reuse.mean(axis=(1, 2))))
    return SensitivityMap(info, *(array.astype(np.float32) for array in arrays))


@cache
def problem(spec: DenoiserSpec, sampler: str, steps: int, guidance: float = 1.5) -> Problem:
    """A problem with a made-up map."""
    return Problem(spec, sampler, steps, guidance, made_up_map(spec, sampler, steps, guidance))


def ratio_of(schedule: Schedule, case: Problem) -> float:
    """FLOPs of computing everything / FLOPs of the schedule."""
    return schedule.flops_ratio(case.spec, case.rows)


def check_history(schedule: Schedule, num_tokens: int) -> None:
    """The first step computes everything, and every forecast has outputs enough. Slot by slot, on purpose."""
    assert (schedule.kept[0] == num_tokens).all()
    assert schedule.stack[0] == BLOCKS_RUN
    blocks_ran = 0
    computed = np.zeros(schedule.kept.shape[1:], int)
    for kept, stack in zip(schedule.kept, schedule.stack, strict=True):
        if stack == BLOCKS_RUN:
            for slot in np.ndindex(kept.shape):
                assert kept[slot] > 0 or -kept[slot] < computed[slot]
                computed[slot] += kept[slot] == num_tokens
            blocks_ran += 1
        else:
            assert stack < blocks_ran
            assert (kept == 0).all()
