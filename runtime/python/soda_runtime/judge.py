"""Judge a request before anything changes: ports that fit the bundle, seed, noise and guidance."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .manifest import HintPort, LabelPort, Manifest, RequestPort, ScalarPort, TokenIdsPort
from .port_inputs import MAX_BATCH, name_inputs, require_all, running_encoders
from .prompts import Tokenize, Truncation, prompts_of, tokens_of
from .request import Noise, Request
from .starts import Start, Tables, judge_start
from .values import brief, real_array, rows_of

_MAX_GUIDANCE = 3.0e38


@dataclass(frozen=True)
class Judged:
    """A request that fits. ports: name -> values [R, *shape], conditional rows first. encode: files of the encoders
    that must run."""

    samples: int
    ports: dict[str, NDArray[np.generic]]
    encode: frozenset[str]
    guidance: float
    noise: Noise | int
    start: Start | None = None
    truncated: tuple[Truncation, ...] = ()


def judge_request(
    request: Request, manifest: Manifest, tokenize: Tokenize, vocabulary: Callable[[int], int], tables: Tables
) -> Judged:
    """tokenize(number, texts): tokens of a tokenizer. vocabulary(number): how many ids it has, 0 where that is not
    known. tables: the bundle's. Raises RequestError."""
    request = name_inputs(request, manifest)
    if not isinstance(request.batch, (int, np.integer)) or not 0 <= request.batch <= MAX_BATCH:
        raise RequestError(f"batch={brief(request.batch)} is outside 0 .. {MAX_BATCH}")
    guidance, seed = _guidance(request.guidance, manifest), _seed(request.seed)
    running = running_encoders(request, manifest)
    texts = prompts_of(request, manifest, running)
    require_all(request, manifest, running)
    ports = {port.name: port for port in manifest.ports}
    given = {name: rows_of(values, ports[name], name) for name, values in request.inputs.items()}
    counts = {name: len(values) for name, values in given.items()} | {own.names[0]: len(own.prompts) for own in texts}
    start = judge_start(request, manifest, tables)
    counts |= {"start_latents": len(start.latents)} if start else {}
    samples = _samples(counts, request.batch)
    rows = {name: _all_rows(ports[name], values, request, manifest, samples) for name, values in given.items()}
    for port in manifest.ports:
        if isinstance(port, ScalarPort) and port.name not in rows:
            rows[port.name] = np.full(samples * manifest.rows_per_sample, port.default, np.float32)
    for name, values in rows.items():
        _require_tokens(ports[name], values, vocabulary)
    noise = seed if request.noise is None else judge_noise(request.noise, manifest, samples)
    tokens, truncated = tokens_of(texts, manifest, samples, tokenize) if texts else ({}, ())
    encode = frozenset(program.file for program in running)
    return Judged(samples, rows | tokens, encode, guidance, noise, start, truncated)


def _require_tokens(port: RequestPort, ids: NDArray[np.generic], vocabulary: Callable[[int], int]) -> None:
    """Ids that a caller gives are within the vocabulary: a library may compute with anything else in silence."""
    size = vocabulary(port.tokenizer) if isinstance(port, TokenIdsPort) else 0
    if size and ids.max() >= size:
        raise RequestError(f"{port.name}: token id {ids.max()} is outside 0 .. {size - 1}")


def judge_noise(noise: Noise, manifest: Manifest, samples: int) -> Noise:
    """Noise of the right shapes, finite."""
    shape, steps = (samples, *manifest.model.latent_shape), manifest.sampler.steps
    if not isinstance(noise, Noise):
        raise RequestError(f"noise is {type(noise).__name__}; give soda_runtime.Noise(initial, steps)")
    initial = real_array(noise.initial, "noise.initial")
    steps_noise = None if noise.steps is None else real_array(noise.steps, "noise.steps")
    if initial.shape != shape:
        raise RequestError(f"noise.initial has shape {list(initial.shape)}, expected {list(shape)}")
    if not manifest.sampler.stochastic:
        return Noise(initial)
    if steps_noise is None or steps_noise.shape != (steps, *shape):
        given = None if steps_noise is None else list(steps_noise.shape)
        raise RequestError(f"this sampler adds noise at every step: noise.steps is {given}, expected {[steps, *shape]}")
    return Noise(initial, steps_noise)


def _samples(counts: dict[str, int], batch: int) -> int:
    samples = max([*counts.values(), batch, 1])
    for name, count in counts.items():
        if count > MAX_BATCH:
            raise RequestError(f"{count} of {name} are more than {MAX_BATCH}")
        if count not in (1, samples) or (batch and samples != batch):
            other = f"batch={batch}" if batch else f"{samples} samples"
            raise RequestError(f"{other} and {count} of {name} do not agree; give one, or one per sample")
    return samples


def _all_rows(
    port: RequestPort, values: NDArray[np.generic], request: Request, manifest: Manifest, samples: int
) -> NDArray[np.generic]:
    """The rows of all samples, then the unconditional ones where there are any."""
    values = values if len(values) == samples else np.repeat(values, samples, axis=0)
    has_negative = port.name in request.negative_inputs
    if has_negative and manifest.rows_per_sample == 1:
        raise RequestError(f"this bundle was built without guidance; the negative of {port.name} has no effect in it")
    if isinstance(port, (LabelPort, HintPort, ScalarPort)) and has_negative:
        raise RequestError(f"the negative of {port.name} has no effect; its kind is {port.kind}")
    if manifest.rows_per_sample == 1:
        return values
    if isinstance(port, LabelPort):
        return np.concatenate([values, np.full(samples, port.null_class, np.int64)])
    if isinstance(port, (HintPort, ScalarPort)):
        return np.concatenate([values, values])
    if not has_negative:
        raise RequestError(f"this bundle was built with guidance: {port.name} need negative ones, of the same shape")
    negative = rows_of(request.negative_inputs[port.name], port, f"the negative of {port.name}")
    if len(negative) not in (1, samples):
        raise RequestError(f"{len(negative)} negative {port.name} for {samples} samples; give one, or one per sample")
    return np.concatenate([values, negative if len(negative) == samples else np.repeat(negative, samples, axis=0)])


def _seed(seed: int) -> int:
    """A seed within 64 bits."""
    try:
        value = operator.index(seed)
    except TypeError:
        raise RequestError(f"seed {brief(seed)} is not a whole number") from None
    if not 0 <= value < 2**64:
        raise RequestError(f"seed {brief(value)} is outside 0 .. 2**64-1")
    return value


def _guidance(requested: float | None, manifest: Manifest) -> float:
    """The scale to use; a bundle without guidance takes none."""
    built = manifest.guidance
    if requested is None:
        return built
    if not isinstance(requested, (int, float, np.integer, np.floating)) or not _is_float32(requested):
        raise RequestError(f"guidance {brief(requested)} is not a number within float32")
    if manifest.rows_per_sample == 1 and requested > 1.0:
        raise RequestError(f"guidance {requested} needs a bundle built with --guidance above 1; this one has none")
    if manifest.rows_per_sample == 1 and requested != built:
        raise RequestError(f"this bundle was built without guidance; guidance {requested} has no effect in it")
    return float(requested)


def _is_float32(number: float | np.number) -> bool:
    """Whether a number of any type is finite as float32."""
    try:
        return abs(float(number)) <= _MAX_GUIDANCE
    except OverflowError:  # of an int that no float holds
        return False
