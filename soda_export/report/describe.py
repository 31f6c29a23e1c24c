"""Bundles and models in words: what a request takes and gives, sizes, shapes, policies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soda_runtime.chunks import chunks_of
from soda_runtime.manifest import AudioFinish, HintPort, LabelPort, Manifest, VideoFinish
from soda_runtime.policy import FULL, Policy
from soda_runtime.signature import ITEM_BYTES, START_LEVELS
from soda_runtime.starts import cached_steps
from soda_runtime.tensors import read_header

_QUANTIZES = b"QuantizeLinear"  # no part of DequantizeLinear


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.2f} MB"


def shape_words(shape: Sequence[int]) -> str:
    """`4 x 32 x 32`; `1 number` for a shape without axes."""
    return " x ".join(map(str, shape)) if shape else "1 number"


def value_words(value: Any) -> str:
    """A value of a configuration: yes and no, numbers, words, lists with commas, names with their values."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {value_words(each)}" for name, each in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(value_words(each) for each in value) or "none"
    return str(value)


def describe_result(manifest: Manifest) -> str:
    """What a request gives, in words; of a video, what each call of its decoder makes and hands to the next one."""
    if not manifest.finish:
        return manifest.model.output
    finish = manifest.finish[0]
    if isinstance(finish, AudioFinish):
        return f"sound, {finish.shape[1] / finish.sample_rate:.2f} s at {finish.sample_rate} Hz"
    if not isinstance(finish, VideoFinish):
        return "images"
    frames, _, height, width = finish.shape
    said = f"video, {frames} frames of {width}x{height}, {finish.frames_per_second:g} a second"
    if len(chunks_of(manifest)) == 1:
        return said
    said += f", in chunks of {finish.frames}" + "".join(f" (first {each.frames})" for each in finish.first)
    carried = sum(ITEM_BYTES[each.dtype] * math.prod(each.shape) for each in finish.carry)
    return said + (f", {megabytes(carried)} carried from one to the next" if carried else "")


def describe_request(manifest: Manifest) -> str:
    """What a request takes, in words."""
    hints = "".join(f", {p.name} ({shape_words(p.shape)})" for p in manifest.ports if isinstance(p, HintPort))
    for port in manifest.ports:
        if isinstance(port, LabelPort):
            return f"labels 0 to {port.num_classes - 1}{hints}"
    if manifest.tokenizers:
        return "prompts of " + " and ".join(f"{entry.max_tokens}" for entry in manifest.tokenizers) + f" tokens{hints}"
    return ", ".join(f"{port.name} ({shape_words(port.shape)})" for port in manifest.ports) or "noise alone"


def full_steps_by_start(folder: Path, manifest: Manifest) -> list[int]:
    """For each step: of a request that starts there from given latents, how many steps are computed in full because
    the cache lacks what they would read. Empty where none can."""
    if START_LEVELS not in read_header(folder / manifest.tables):
        return []
    steps = manifest.sampler.steps
    return [steps - first - len(cached_steps(manifest, first)) for first in range(steps)]


def describe_arena(bytes: int, lower_bound_bytes: int, naive_bytes: int) -> str:
    """Of one sample."""
    return f"{megabytes(bytes)} a sample (lower bound {megabytes(lower_bound_bytes)}, naive {megabytes(naive_bytes)})"


def describe_starts(full_steps: list[int]) -> str:
    """full_steps: of `full_steps_by_start`."""
    if not full_steps:
        return "with noise alone; this bundle cannot start from latents"
    free = [str(first) for first, count in enumerate(full_steps) if count == 0]
    return f"from latents at any step; {max(full_steps)} steps in full at most, none from step {', '.join(free)}"


def describe_policy(policy: Policy) -> str:
    """Its name, and what may become of each step: # computes, ? decides, - is skipped unless too many in a row were."""
    marks = ["#", *("#" if rule.action == FULL else "-" if rule.always else "?" for rule in policy.rules)]
    return f"{policy.name}: {''.join(marks)} (# computes, ? decides, - skips; at most {policy.max_run} in a row)"


def describe_sampler(manifest: Manifest) -> str:
    """Its name, steps and guidance."""
    fitted = ", fitted to the schedule" if manifest.sampler.fitted else ""
    return f"{manifest.sampler.name}, {manifest.sampler.steps} steps, guidance {manifest.guidance:g}{fitted}"


def describe_precision(folder: Path, manifest: Manifest) -> str:
    """Of the arithmetic, and whether matrices, or products with them, have fewer bits."""
    if all(entry.dtype != "I8" for entry in read_header(folder / manifest.weights[0]).values()):
        return manifest.precision
    graph = (folder / manifest.programs[manifest.baseline_program].file).read_bytes()
    return manifest.precision + (", products in int8" if _QUANTIZES in graph else ", matrices in int8")
