"""Play one request at a time: labels and a seed in, latents out."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .philox import INITIAL_STREAM, latent_noise
from .playback import Playback

if TYPE_CHECKING:
    from .bundle import Bundle


_MAX_BATCH = 65536
_MAX_GUIDANCE = 3.0e38


class Noise(NamedTuple):
    """Noise given by the caller. initial: [B, C, H, W]. steps: [S, B, C, H, W], for stochastic samplers only."""

    initial: NDArray[np.float32]
    steps: NDArray[np.float32] | None = None


class Session:
    """One thread's player of a bundle. Nothing is carried from one request to the next.

    `generate` is `start`, every `step(i)` in order, and `latents`.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._playback: Playback | None = None
        self._next_step = 0
        self._started = False
        self._noise: Noise | int = 0

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, backend: str = "", device: str = "cpu", threads: int = 0) -> Session:
        """Short for `Bundle.open(...).session()`."""
        from .bundle import Bundle

        return Bundle.open(path, backend=backend, device=device, threads=threads).session()

    def generate(
        self,
        labels: int | Sequence[int],
        *,
        seed: int = 0,
        batch: int = 0,
        noise: Noise | None = None,
        guidance: float | None = None,
        accelerated: bool = True,
    ) -> NDArray[np.float32]:
        """Generate latents [B, C, H, W] (pixels in -1..1 where the model's output is pixels).

        labels: one class or one per sample. batch: repeats a single label; 0 takes the number of labels.
        seed: 0 .. 2**64-1, ignored where noise is given. guidance: default the bundle's.
        accelerated=False plays the same model with every module computed at every step.
        """
        self.start(labels, seed=seed, batch=batch, noise=noise, guidance=guidance, accelerated=accelerated)
        for i in range(self.bundle.manifest.sampler.steps):
            self.step(i)
        return self.latents()

    def start(
        self,
        labels: int | Sequence[int],
        *,
        seed: int = 0,
        batch: int = 0,
        noise: Noise | None = None,
        guidance: float | None = None,
        accelerated: bool = True,
    ) -> None:
        """Begin a request; arguments as for `generate`. Raises RequestError before anything changes."""
        manifest = self.bundle.manifest
        classes = _classes(labels, batch, manifest.model.num_classes)
        size = len(classes)
        scale = _guidance(guidance, manifest.guidance, manifest.rows_per_sample)
        shape = manifest.model.latent_shape
        seed = _seed(seed)
        if noise is not None:
            noise = _checked_noise(noise, (size, *shape), manifest.sampler.steps, manifest.sampler.stochastic)
        if self._playback is None or (self._playback.batch, self._playback.accelerated) != (size, accelerated):
            self._playback = None  # free the old buffers before new ones are allocated
            self._playback = Playback(self.bundle, size, accelerated)
        playback = self._playback
        state = np.zeros((manifest.sampler.state_size, size, *shape), np.float32)
        initial = latent_noise(seed, INITIAL_STREAM, size, shape) if noise is None else noise.initial
        state[0] = initial * np.float32(manifest.sampler.initial_scale)
        playback.initial_state.write(state)
        null_rows = [manifest.model.null_class] * size * (manifest.rows_per_sample - 1)
        playback.labels.write(np.array([*classes, *null_rows], np.int64))
        playback.guidance.write(np.array([scale], np.float32))
        self._noise = seed if noise is None else noise
        self._next_step, self._started = 0, True

    def step(self, index: int) -> None:
        """Run step `index`; steps run in order, each once."""
        playback = self.playback
        if index != self._next_step or index >= len(playback.steps):
            raise RequestError(f"step {index} cannot run now; next is {self._next_step} of {len(playback.steps)} steps")
        if index % playback.window == 0:
            playback.prepares[index // playback.window]()
        if self.bundle.manifest.sampler.stochastic:
            playback.noise.write(self._step_noise(index, playback.batch))
        playback.steps[index]()
        self._next_step = index + 1

    def latents(self) -> NDArray[np.float32]:
        """The latents [B, C, H, W] after the steps run so far."""
        playback, manifest = self.playback, self.bundle.manifest
        state = playback.state_after(self._next_step).read().view(np.float32)
        latents: NDArray[np.float32] = state.reshape(
            manifest.sampler.state_size, playback.batch, *manifest.model.latent_shape
        )[0]
        return latents.copy()

    @property
    def playback(self) -> Playback:
        """The buffers and bound calls of the request in progress, for instruments and tests."""
        if self._playback is None or not self._started:
            raise RequestError("no request has been started; call start() or generate() first")
        return self._playback

    def reset(self) -> None:
        """Forget the request in progress; buffers stay allocated."""
        self._started, self._next_step = False, 0

    def _step_noise(self, index: int, batch: int) -> NDArray[np.float32]:
        if isinstance(self._noise, Noise):
            assert self._noise.steps is not None
            noise: NDArray[np.float32] = self._noise.steps[index]
            return noise
        return latent_noise(self._noise, 1 + index, batch, self.bundle.manifest.model.latent_shape)


def _seed(seed: int) -> int:
    try:
        value = operator.index(seed)
    except TypeError:
        raise RequestError(f"seed {seed!r:.40} is not a whole number") from None
    if not 0 <= value < 2**64:
        raise RequestError(f"seed {value} is outside 0 .. 2**64-1")
    return value


def _classes(labels: int | Sequence[int], batch: int, num_classes: int) -> list[int]:
    if not isinstance(batch, (int, np.integer)) or not 0 <= batch <= _MAX_BATCH:
        raise RequestError(f"batch={batch} is outside 0 .. {_MAX_BATCH}")
    try:
        listed: Sequence[int] = [labels] if isinstance(labels, (int, np.integer)) else labels
        classes = [operator.index(label) for label in listed]
    except TypeError:
        raise RequestError(f"labels {str(labels)!r:.40}: give a whole number or a sequence of them") from None
    if len(classes) == 1:
        classes = classes * max(1, batch)
    if len(classes) > _MAX_BATCH:
        raise RequestError(f"{len(classes)} labels are more than {_MAX_BATCH}")
    if not classes or (batch and batch != len(classes)):
        raise RequestError(f"batch={batch} and {len(classes)} labels do not agree; give one label, or one per sample")
    for label in classes:
        if not 0 <= label < num_classes:
            raise RequestError(f"label {label} is outside 0 .. {num_classes - 1}")
    return classes


def _guidance(requested: float | None, built: float, rows_per_sample: int) -> float:
    if requested is None:
        return built
    if not isinstance(requested, (int, float, np.integer, np.floating)) or not abs(requested) <= _MAX_GUIDANCE:
        raise RequestError(f"guidance {requested!r:.40} is not a number within float32")
    if rows_per_sample == 1 and requested > 1.0:
        raise RequestError(f"guidance {requested} needs a bundle built with --guidance above 1; this one has none")
    if rows_per_sample == 1 and requested != built:
        raise RequestError(f"this bundle was built without guidance; guidance {requested} has no effect in it")
    return float(requested)


def _real_array(values: object, name: str) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise RequestError(f"{name}: not an array of real numbers")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(result).all():
        raise RequestError(f"{name}: has values that are not finite float32 numbers")
    return result


def _checked_noise(noise: Noise, shape: tuple[int, ...], steps: int, stochastic: bool) -> Noise:
    if not isinstance(noise, Noise):
        raise RequestError(f"noise is {type(noise).__name__}; give soda_runtime.Noise(initial, steps)")
    initial = _real_array(noise.initial, "noise.initial")
    steps_noise = None if noise.steps is None else _real_array(noise.steps, "noise.steps")
    if initial.shape != shape:
        raise RequestError(f"noise.initial has shape {list(initial.shape)}, expected {list(shape)}")
    if not stochastic:
        return Noise(initial)
    if steps_noise is None or steps_noise.shape != (steps, *shape):
        given = None if steps_noise is None else list(steps_noise.shape)
        raise RequestError(f"this sampler adds noise at every step: noise.steps is {given}, expected {[steps, *shape]}")
    return Noise(initial, steps_noise)
