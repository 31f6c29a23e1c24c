"""FLOPs of a step in the convention of the ToCa, DuCa and SODA papers, from what tracing counted for each site.

A multiply-add is 2; softmax costs 5 an entry, GELU 6; adaLN's linear layers count once a step, whatever the batch;
normalising, modulating and gating cost 3 an entry of the hidden state and layer; embedding, final layer and VAE are
left out. DiT-XL/2 at 256 px with guidance: 0.474706 TFLOPs a step, so 23.735 for 50 steps and 118.676 for 250, as
those papers report. What a request alone decides, such as a caption's keys and values, is made once and counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from .decisions import COMPUTE, IDLE
from .spec import ModelSpec, Site


def site_flops(site: Site, work: int) -> int:
    """FLOPs of a site for one row, without those of the sites inside it and what is computed once for all rows."""
    if work == COMPUTE:
        return site.flops
    if work > 0:
        fixed, each = site.kept_flops
        return fixed + each * work
    return 0 if work == IDLE else forecast_flops(site, -work)


def forecast_flops(site: Site, order: int) -> int:
    """FLOPs of one row's weighted sum of order + 1 outputs; reading one as it is costs nothing."""
    return (2 * order + 1) * site.elements if order else 0


def step_flops(spec: ModelSpec, rows: int, work: Sequence[int]) -> int:
    """FLOPs of a step for one sample of `rows` rows (2 with guidance). work: [K] what each site does (decisions.py)."""
    total = 0
    for site, does in zip(spec.sites, work, strict=True):
        total += rows * site_flops(site, int(does)) + (site.once_flops if does == COMPUTE else 0)
    return total


def full_step_flops(spec: ModelSpec, rows: int) -> int:
    """FLOPs of a step that computes everything, for one sample."""
    return step_flops(spec, rows, [COMPUTE] * len(spec.sites))
