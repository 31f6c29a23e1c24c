"""The clean sample that the latest step's prediction stands for, from the states around that step.

A step of a frozen sampler is z' = A z + b e + c noise, and the clean sample is p x + q e (the table PREVIEW_LEVELS). So
the prediction e follows from what is in memory anyway, and a step does nothing for previews that nobody asks for.
BUNDLE.md, section 8.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .lane import Lane
from .manifest import Manifest, Sampler
from .signature import MASK, PREVIEW_LEVELS, START_KNOWN, coefficient_table
from .starts import Tables

KNOWN = 2
"""Tensors that an inpainting bundle has at the end of its state: clean latents and the initial noise."""
NO_PREVIEWS = (
    "this bundle has no previews: an older soda-export built it, or its sampler mixes no clean sample with noise; "
    "build it again, with another --sampler"
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Form:
    """Weights of the tensors of the state before a step, of those after it, and of its noise."""

    before: Floats
    after: Floats
    noise: float


def preview_of(lane: Lane, manifest: Manifest, tables: Tables, step: int) -> NDArray[np.float32]:
    """[batch, *latent_shape]: the clean sample after step `step`, the latest one. Raises RequestError where the bundle
    or the sampler cannot say."""
    playback, sampler, shape = lane.playback, manifest.sampler, manifest.model.latent_shape
    n, inpaints = sampler.state_size, START_KNOWN in tables
    own = tables[coefficient_table(manifest, False)][step]
    form = _form(playback.row_of(step), own, _levels(tables, step), n - KNOWN * inpaints, sampler)
    if form is None:
        raise RequestError(
            f"no preview after step {step}: {sampler.name} takes the size of its noise from the model, which hides "
            "the prediction; build with another --sampler, e.g. ddim"
        )
    before, after = (
        playback.state_after(step + done).read().view(np.float32).reshape(n, playback.batch, *shape).astype(np.float64)
        for done in range(2)
    )
    with np.errstate(over="ignore", invalid="ignore"):  # results that are not finite are refused
        clean = np.tensordot(form.before, before[: len(form.before)], 1)
        if form.noise:
            clean += form.noise * playback.noise_of(step)
        if not inpaints:
            return (clean + np.tensordot(form.after, after, 1)).astype(np.float32)  # type: ignore[no-any-return]
        clean += np.tensordot(form.after[1:], after[1 : len(form.after)], 1)
        rows = playback.request[MASK].read().view(np.float32)
        mask_shape = next(port.shape for port in manifest.ports if port.name == MASK)
        mask = rows.reshape(-1, *mask_shape)[: playback.batch]  # the same in all rows of a sample
        signal, share = tables[START_KNOWN][step]
        known = signal * before[-2] + share * before[-1]
        inside = mask * clean + form.after[0] * (after[0] - (1 - mask) * known)
        return (inside + (1 - mask) * before[-2]).astype(np.float32)  # type: ignore[no-any-return]


def _levels(tables: Tables, step: int) -> tuple[float, float]:
    if PREVIEW_LEVELS not in tables:
        raise RequestError(NO_PREVIEWS)
    of_latents, of_prediction = tables[PREVIEW_LEVELS][step].tolist()
    return of_latents, of_prediction


def _form(
    row: NDArray[np.float32], own: NDArray[np.float32], levels: tuple[float, float], n: int, sampler: Sampler
) -> Form | None:
    """row: what the step took as `coefficients`; own: the sampler's. A step that did not call the model has no weight
    for a prediction: then the one is meant with which the sampler itself would have come from z to z'. n: tensors that
    the step's map is of. None where noise of unknown size hides the prediction."""
    a, b, c = _parts(row, n, sampler.state_size)
    if not b.any():
        a, b, c = _parts(own, n, sampler.state_size)
        b = b * np.eye(n)[0]
    usable = np.where(c == 0, b, 0.0) if sampler.learned_variance else b
    length = usable @ usable
    if not length:
        return None
    after = levels[1] * usable / length
    before = -after @ a
    before[0] += levels[0]
    return Form(before, after, float(-after @ c))


def _parts(row: NDArray[np.float32], n: int, size: int) -> tuple[Floats, Floats, Floats]:
    """A, b and c of the first n of `size` tensors."""
    wide, square = row.astype(np.float64), size * size
    a = wide[1 : 1 + square].reshape(size, size)[:n, :n]
    return a, wide[1 + square :][:n], wide[1 + square + size :][:n]
