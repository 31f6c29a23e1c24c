"""Judge a request before anything changes: labels or text, seed, noise and guidance that fit the bundle."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .manifest import LabelCondition, Manifest, TextCondition
from .philox import INITIAL_STREAM, latent_noise
from .signature import ATTENTION_MASK, EMBEDS, INPUT_IDS, LABELS

if TYPE_CHECKING:
    from .bundle import Bundle

_MAX_BATCH = 65536
_MAX_GUIDANCE = 3.0e38


class Noise(NamedTuple):
    """Noise given by the caller. initial: [B, C, H, W]. steps: [S, B, C, H, W], for stochastic samplers only."""

    initial: NDArray[np.float32]
    steps: NDArray[np.float32] | None = None


class Embeds(NamedTuple):
    """Text embeddings given by the caller: [B, T, E] with masks [B, T] of 0 and 1, as diffusers' encode_prompt gives.

    The negative pair is needed where the bundle was built with guidance.
    """

    prompt_embeds: NDArray[np.float32]
    prompt_attention_mask: NDArray[np.int64]
    negative_prompt_embeds: NDArray[np.float32] | None = None
    negative_prompt_attention_mask: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Condition:
    """What a request is conditioned on, row by row: name of a request input -> its values [R, ...]."""

    samples: int
    inputs: dict[str, NDArray[np.generic]]


def judge_condition(
    bundle: Bundle,
    labels: int | Sequence[int] | None,
    prompt: str | Sequence[str] | None,
    negative_prompt: str | Sequence[str],
    embeds: Embeds | None,
    batch: int,
) -> Condition:
    """Rows of the condition, the conditional half first. Exactly one of labels, prompt and embeds is not None."""
    condition, rows = bundle.manifest.model.condition, bundle.manifest.rows_per_sample
    if not isinstance(batch, (int, np.integer)) or not 0 <= batch <= _MAX_BATCH:
        raise RequestError(f"batch={_brief(batch)} is outside 0 .. {_MAX_BATCH}")
    if isinstance(condition, LabelCondition):
        if prompt is not None or embeds is not None or not _is_empty(negative_prompt):
            raise RequestError("this bundle is conditioned on class labels; it takes no prompt and no embeddings")
        classes = _classes(labels, batch, condition.num_classes)
        null_rows = [condition.null_class] * len(classes) * (rows - 1)
        return Condition(len(classes), {LABELS: np.array([*classes, *null_rows], np.int64)})
    if labels is not None:
        raise RequestError("this bundle is conditioned on text; give a prompt or embeddings, not labels")
    if (prompt is None) == (embeds is None):
        raise RequestError("give either a prompt or embeddings")
    if embeds is not None and not _is_empty(negative_prompt):
        raise RequestError("a negative prompt has no effect on embeddings; give negative_prompt_embeds")
    if rows == 1 and not _is_empty(negative_prompt):
        raise RequestError("this bundle was built without guidance; a negative prompt has no effect in it")
    if embeds is not None:
        return _embedded(embeds, condition, rows, batch)
    prompts = _prompts(prompt, "prompt")
    if len(prompts) == 1:
        prompts = prompts * max(1, batch)
    count = len(prompts)
    if batch and batch != count:
        raise RequestError(f"batch={batch} and {count} prompts do not agree; give one prompt, or one per sample")
    if rows == 2:
        negative = _prompts(negative_prompt, "negative prompt")
        if len(negative) not in (1, count):
            raise RequestError(f"{len(negative)} negative prompts for {count} samples; give one, or one per sample")
        prompts = prompts + (negative * count if len(negative) == 1 else negative)
    ids, mask = bundle.tokenize(prompts)
    return Condition(count, {INPUT_IDS: ids, ATTENTION_MASK: mask})


def example_request(bundle: Bundle, samples: int) -> dict[str, Any]:
    """Arguments of a request that any bundle takes, for proofs and measurements: classes in turn, or embeddings of
    noise that need no text encoder."""
    manifest = bundle.manifest
    condition = manifest.model.condition
    if isinstance(condition, LabelCondition):
        return {"labels": [i % condition.num_classes for i in range(samples)]}
    shape = (condition.max_tokens, condition.embed_width)
    values, mask = latent_noise(0, INITIAL_STREAM, samples, shape), np.ones((samples, shape[0]), np.int64)
    return {"embeds": Embeds(values, mask, values[:1], mask[:1])}


def judge_seed(seed: int) -> int:
    """A seed within 64 bits."""
    try:
        value = operator.index(seed)
    except TypeError:
        raise RequestError(f"seed {_brief(seed)} is not a whole number") from None
    if not 0 <= value < 2**64:
        raise RequestError(f"seed {_brief(value)} is outside 0 .. 2**64-1")
    return value


def judge_guidance(requested: float | None, manifest: Manifest) -> float:
    """The scale to use; a bundle without guidance takes none."""
    built = manifest.guidance
    if requested is None:
        return built
    if not isinstance(requested, (int, float, np.integer, np.floating)) or not abs(requested) <= _MAX_GUIDANCE:
        raise RequestError(f"guidance {_brief(requested)} is not a number within float32")
    if manifest.rows_per_sample == 1 and requested > 1.0:
        raise RequestError(f"guidance {requested} needs a bundle built with --guidance above 1; this one has none")
    if manifest.rows_per_sample == 1 and requested != built:
        raise RequestError(f"this bundle was built without guidance; guidance {requested} has no effect in it")
    return float(requested)


def judge_noise(noise: Noise, manifest: Manifest, samples: int) -> Noise:
    """Noise of the right shapes, finite."""
    shape, steps = (samples, *manifest.model.latent_shape), manifest.sampler.steps
    if not isinstance(noise, Noise):
        raise RequestError(f"noise is {type(noise).__name__}; give soda_runtime.Noise(initial, steps)")
    initial = _real_array(noise.initial, "noise.initial")
    steps_noise = None if noise.steps is None else _real_array(noise.steps, "noise.steps")
    if initial.shape != shape:
        raise RequestError(f"noise.initial has shape {list(initial.shape)}, expected {list(shape)}")
    if not manifest.sampler.stochastic:
        return Noise(initial)
    if steps_noise is None or steps_noise.shape != (steps, *shape):
        given = None if steps_noise is None else list(steps_noise.shape)
        raise RequestError(f"this sampler adds noise at every step: noise.steps is {given}, expected {[steps, *shape]}")
    return Noise(initial, steps_noise)


def _classes(labels: int | Sequence[int] | None, batch: int, num_classes: int) -> list[int]:
    try:
        listed: Sequence[int] = [labels] if isinstance(labels, (int, np.integer)) else [] if labels is None else labels
        classes = [operator.index(label) for label in listed]
    except (TypeError, ValueError):
        raise RequestError(f"labels {_brief(labels)}: give a whole number or a sequence of them") from None
    if len(classes) == 1:
        classes = classes * max(1, batch)
    if len(classes) > _MAX_BATCH:
        raise RequestError(f"{len(classes)} labels are more than {_MAX_BATCH}")
    if not classes or (batch and batch != len(classes)):
        raise RequestError(f"batch={batch} and {len(classes)} labels do not agree; give one label, or one per sample")
    for label in classes:
        if not 0 <= label < num_classes:
            raise RequestError(f"label {_brief(label)} is outside 0 .. {num_classes - 1}")
    return classes


def _prompts(prompt: object, name: str) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, (list, tuple)) else []
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise RequestError(f"{name} {_brief(prompt)}: give a string or a list of strings")
    if len(prompts) > _MAX_BATCH:
        raise RequestError(f"{len(prompts)} prompts are more than {_MAX_BATCH}")
    return prompts


def _embedded(embeds: Embeds, condition: TextCondition, rows: int, batch: int) -> Condition:
    if not isinstance(embeds, Embeds):
        raise RequestError(f"embeds is {type(embeds).__name__}; give soda_runtime.Embeds(...)")
    values, mask = _embeds_pair(embeds.prompt_embeds, embeds.prompt_attention_mask, "prompt", condition)
    if len(values) == 1 and batch > 1:
        values, mask = np.repeat(values, batch, axis=0), np.repeat(mask, batch, axis=0)
    count = len(values)
    if count > _MAX_BATCH or (batch and batch != count):
        raise RequestError(f"batch={batch} and {count} embeddings do not agree; give one, or one per sample")
    if rows == 2:
        if embeds.negative_prompt_embeds is None or embeds.negative_prompt_attention_mask is None:
            raise RequestError("this bundle was built with guidance: embeds need negative_prompt_embeds and their mask")
        negative, negative_mask = _embeds_pair(
            embeds.negative_prompt_embeds, embeds.negative_prompt_attention_mask, "negative_prompt", condition
        )
        if len(negative) not in (1, count):
            raise RequestError(f"{len(negative)} negative embeddings for {count} samples; give one, or one per sample")
        repeats = count // len(negative)
        values = np.concatenate([values, np.repeat(negative, repeats, axis=0)])
        mask = np.concatenate([mask, np.repeat(negative_mask, repeats, axis=0)])
    return Condition(count, {EMBEDS: values, ATTENTION_MASK: mask})


def _embeds_pair(
    values: object, mask: object, name: str, condition: TextCondition
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    array, ones = _real_array(values, f"{name}_embeds"), _array(mask, f"{name}_attention_mask")
    tail = (condition.max_tokens, condition.embed_width)
    if array.ndim != 3 or array.shape[1:] != tail or len(array) == 0:
        raise RequestError(f"{name}_embeds has shape {list(array.shape)}, expected [samples, {tail[0]}, {tail[1]}]")
    if ones.dtype.kind not in "biuf" or ones.shape != array.shape[:2] or not np.isin(ones, (0, 1)).all():
        found, wanted = f"{ones.dtype} {list(ones.shape)}", list(array.shape[:2])
        raise RequestError(f"{name}_attention_mask is {found}, expected {wanted} of 0 and 1")
    return array, ones.astype(np.int64)


def _real_array(values: object, name: str) -> NDArray[np.float32]:
    array = _array(values, name)
    if array.dtype.kind not in "fiu":
        raise RequestError(f"{name}: not an array of real numbers")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(result).all():
        raise RequestError(f"{name}: has values that are not finite float32 numbers")
    return result


def _array(values: object, name: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors of other libraries, out of reach
        raise RequestError(f"{name}: not an array ({' '.join(str(error).split())})") from None


def _is_empty(negative_prompt: object) -> bool:
    return isinstance(negative_prompt, str) and not negative_prompt


def _brief(value: object) -> str:
    """A wrong value for a message, on one line. Python prints no number of thousands of digits."""
    try:
        return " ".join(repr(value).split())[:40]
    except (ValueError, RecursionError):
        return f"({type(value).__name__})"
