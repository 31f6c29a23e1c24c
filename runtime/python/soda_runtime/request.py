"""Judge a request before anything changes: labels or text, seed, noise and guidance that fit the bundle."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .manifest import EmbeddingPort, LabelPort, Manifest, MaskPort, RequestPort, ScalarPort, TokenIdsPort, TokenMaskPort
from .philox import INITIAL_STREAM, latent_noise

if TYPE_CHECKING:
    from .bundle import Bundle

_MAX_BATCH = 65536
_MAX_GUIDANCE = 3.0e38
_EMBEDS, _POOLED, _MASK = "embeds", "pooled_embeds", "attention_mask"
DISTILLED_GUIDANCE = "distilled_guidance"
"""The scalar port of a model that takes its guidance scale as an input."""


class Noise(NamedTuple):
    """Noise given by the caller. initial: [B, C, H, W]. steps: [S, B, C, H, W], for stochastic samplers only."""

    initial: NDArray[np.float32]
    steps: NDArray[np.float32] | None = None


class Embeds(NamedTuple):
    """Text embeddings given by the caller: [B, T, E], with masks [B, T] of 0 and 1 and pooled ones [B, P] where the
    model takes them, as diffusers' encode_prompt gives.

    The negative ones are needed where the bundle was built with guidance.
    """

    prompt_embeds: object
    prompt_attention_mask: object = None
    negative_prompt_embeds: object = None
    negative_prompt_attention_mask: object = None
    pooled_prompt_embeds: object = None
    negative_pooled_prompt_embeds: object = None


class Request(NamedTuple):
    """What a caller asks for, as `Session.generate` takes it."""

    labels: int | Sequence[int] | None = None
    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] = ""
    embeds: Embeds | None = None
    batch: int = 0
    inputs: Mapping[str, object] = {}
    negative_inputs: Mapping[str, object] = {}
    guidance: float | None = None


@dataclass(frozen=True)
class Condition:
    """What a request is conditioned on, row by row: name of a request input -> its values [R, ...]."""

    samples: int
    inputs: dict[str, NDArray[np.generic]]


def judge_condition(bundle: Bundle, request: Request) -> Condition:
    """Rows of every port that the request gives, the conditional half first. Raises RequestError."""
    manifest, batch = bundle.manifest, request.batch
    if not isinstance(batch, (int, np.integer)) or not 0 <= batch <= _MAX_BATCH:
        raise RequestError(f"batch={_brief(batch)} is outside 0 .. {_MAX_BATCH}")
    label = next((port for port in manifest.ports if isinstance(port, LabelPort)), None)
    texts = [port for port in manifest.ports if not isinstance(port, (LabelPort, ScalarPort))]
    if label is not None and not texts:
        made = _labelled(request, label, manifest.rows_per_sample)
    elif request.labels is not None and label is None:
        raise RequestError("this bundle is conditioned on text; give a prompt or embeddings, not labels")
    else:
        made = _texts(bundle, request)
    return _with_scalars(manifest, request, made)


def _labelled(request: Request, port: LabelPort, rows: int) -> Condition:
    if request.prompt is not None or request.embeds is not None or not _is_empty(request.negative_prompt):
        raise RequestError("this bundle is conditioned on class labels; it takes no prompt and no embeddings")
    given = request.inputs.get(port.name)
    labels: Any = request.labels if given is None else np.asarray(given).tolist()
    classes = _classes(labels, request.batch, port.num_classes)
    null_rows = [port.null_class] * len(classes) * (rows - 1)
    return Condition(len(classes), {port.name: np.array([*classes, *null_rows], np.int64)})


def _texts(bundle: Bundle, request: Request) -> Condition:
    manifest, prompt, embeds = bundle.manifest, request.prompt, request.embeds
    rows, negative_prompt = manifest.rows_per_sample, request.negative_prompt
    by_name = {port.name for port in manifest.ports if not isinstance(port, ScalarPort)} & request.inputs.keys()
    if (prompt is not None) + (embeds is not None) + bool(by_name) != 1:
        raise RequestError("give either a prompt or embeddings")
    if prompt is None and not _is_empty(negative_prompt):
        raise RequestError("a negative prompt has no effect on embeddings; give negative_prompt_embeds")
    if rows == 1 and not _is_empty(negative_prompt):
        raise RequestError("this bundle was built without guidance; a negative prompt has no effect in it")
    if embeds is not None:
        return _embedded(manifest, embeds, request.batch)
    if by_name:
        return _by_name(manifest, request)
    prompts = _prompts(prompt, "prompt")
    if len(prompts) == 1:
        prompts = prompts * max(1, request.batch)
    count = len(prompts)
    if request.batch and request.batch != count:
        raise RequestError(
            f"batch={request.batch} and {count} prompts do not agree; give one prompt, or one per sample"
        )
    if rows == 2:
        negative = _prompts(negative_prompt, "negative prompt")
        if len(negative) not in (1, count):
            raise RequestError(f"{len(negative)} negative prompts for {count} samples; give one, or one per sample")
        prompts = prompts + (negative * count if len(negative) == 1 else negative)
    made: dict[str, NDArray[np.generic]] = {}
    for number in range(max(1, len(manifest.tokenizers))):
        ids, mask = bundle.tokenize(prompts, number)
        for port in manifest.ports:
            if isinstance(port, (TokenIdsPort, TokenMaskPort)) and port.tokenizer == number:
                made[port.name] = ids if isinstance(port, TokenIdsPort) else mask
    return Condition(count, made)


def _embedded(manifest: Manifest, embeds: Embeds, batch: int) -> Condition:
    """Embeddings as diffusers' pipelines name them."""
    if not isinstance(embeds, Embeds):
        raise RequestError(f"embeds is {type(embeds).__name__}; give soda_runtime.Embeds(...)")
    fields = {_EMBEDS: "prompt_embeds", _MASK: "prompt_attention_mask", _POOLED: "pooled_prompt_embeds"}
    ports = {port.name: port for port in manifest.ports}
    given: dict[str, tuple[str, object]] = {}
    negative: dict[str, tuple[str, object]] = {}
    for name, field in fields.items():
        if name in ports:
            given[name] = (field, getattr(embeds, field))
            other = f"negative_{field}"
            negative[name] = (other, getattr(embeds, other))
        elif getattr(embeds, field) is not None:
            raise RequestError(f"{field}: this bundle's model takes none")
    if manifest.rows_per_sample == 2 and any(value is None for _, value in negative.values()):
        raise RequestError("this bundle was built with guidance: embeds need negative_prompt_embeds and their mask")
    return _assembled(manifest, given, negative if manifest.rows_per_sample == 2 else {}, batch)


def _by_name(manifest: Manifest, request: Request) -> Condition:
    names = {port.name for port in manifest.ports}
    for name in (*request.inputs, *request.negative_inputs):
        if name not in names:
            raise RequestError(f"{name!r:.80} is no port of this bundle; it has {', '.join(sorted(names))}")
    kinds = {port.name: port for port in manifest.ports if not isinstance(port, (ScalarPort, LabelPort))}
    given = {name: (name, value) for name, value in request.inputs.items() if name in kinds}
    negative = {name: (f"negative {name}", value) for name, value in request.negative_inputs.items() if name in kinds}
    if manifest.rows_per_sample == 1 and negative:
        raise RequestError("this bundle was built without guidance; negative inputs have no effect in it")
    return _assembled(manifest, given, negative, request.batch)


def _assembled(
    manifest: Manifest, given: Mapping[str, tuple[str, object]], negative: Mapping[str, tuple[str, object]], batch: int
) -> Condition:
    """Rows of embeddings and masks; what only encoders take may be left out."""
    wanted = [p for p in manifest.ports if isinstance(p, (EmbeddingPort, MaskPort, TokenMaskPort))]
    for port in wanted:
        if port.name not in given:
            raise RequestError(f"{port.name} is missing: give everything that the model takes of a text")
    values = {port.name: _checked(port, *given[port.name]) for port in wanted}
    counts = {len(array) for array in values.values()}
    count = max(counts, default=1)
    if counts - {1, count} or count > _MAX_BATCH or (batch and count not in (1, batch)):
        raise RequestError(f"batch={batch} and {count} embeddings do not agree; give one, or one per sample")
    count = max(count, batch)
    made: dict[str, NDArray[np.generic]] = {}
    for port in wanted:
        rows = _repeated(values[port.name], count)
        if manifest.rows_per_sample == 2:
            if port.name not in negative:
                raise RequestError(f"this bundle was built with guidance: give the negative of {port.name}, too")
            other = _checked(port, *negative[port.name])
            if len(other) not in (1, count):
                raise RequestError(f"{len(other)} negative embeddings for {count} samples; give one, or one per sample")
            rows = np.concatenate([rows, _repeated(other, count)])
        made[port.name] = rows
    return Condition(count, made)


def _repeated(array: NDArray[Any], count: int) -> NDArray[Any]:
    return np.repeat(array, count // len(array), axis=0)


def _checked(port: RequestPort, name: str, value: object) -> NDArray[Any]:
    """A port's values [n, *shape] of its type."""
    if value is None:
        raise RequestError(f"{name} is missing")
    if isinstance(port, EmbeddingPort):
        array: NDArray[Any] = _real_array(value, name)
    else:
        array = _array(value, name)
        shape = ", ".join(map(str, ("samples", *port.shape)))
        if array.dtype.kind not in "biuf" or array.shape[1:] != port.shape or not np.isin(array, (0, 1)).all():
            raise RequestError(f"{name} is {array.dtype} {list(array.shape)}, expected [{shape}] of 0 and 1")
        array = array.astype(np.int64)
    if array.ndim != 1 + len(port.shape) or array.shape[1:] != port.shape or len(array) == 0:
        wanted = ", ".join(map(str, ("samples", *port.shape)))
        raise RequestError(f"{name} has shape {list(array.shape)}, expected [{wanted}]")
    return array


def _with_scalars(manifest: Manifest, request: Request, made: Condition) -> Condition:
    rows = dict(made.inputs)
    for port in manifest.ports:
        if not isinstance(port, ScalarPort):
            continue
        value = request.inputs.get(port.name)
        if value is None and port.name == DISTILLED_GUIDANCE:
            value = request.guidance
        numbers = np.full(1, port.default, np.float32) if value is None else _real_array(value, port.name).reshape(-1)
        if len(numbers) not in (1, made.samples) or not ((port.least <= numbers) & (numbers <= port.most)).all():
            bounds = f"{port.least:g} .. {port.most:g}"
            raise RequestError(f"{port.name}={_brief(value)}: give one number, or one per sample, within {bounds}")
        rows[port.name] = np.tile(_repeated(numbers, made.samples), manifest.rows_per_sample)
    return Condition(made.samples, rows)


def example_request(bundle: Bundle, samples: int) -> dict[str, Any]:
    """Arguments of a request that any bundle takes, for proofs and measurements: classes in turn, or embeddings of
    noise that need no text encoder."""
    manifest = bundle.manifest
    for port in manifest.ports:
        if isinstance(port, LabelPort):
            return {"labels": [i % port.num_classes for i in range(samples)]}
    made: dict[str, Any] = {}
    for port in manifest.ports:
        if isinstance(port, EmbeddingPort):
            made[port.name] = latent_noise(0, INITIAL_STREAM, samples, port.shape)
        elif isinstance(port, (MaskPort, TokenMaskPort)):
            made[port.name] = np.ones((samples, *port.shape), np.int64)
    if manifest.rows_per_sample == 1:
        return {"inputs": made}
    return {"inputs": made, "negative_inputs": {name: array[:1] for name, array in made.items()}}


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
    if any(port.name == DISTILLED_GUIDANCE for port in manifest.ports):
        return built  # it is the model's own input
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
