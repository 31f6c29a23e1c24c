"""Play one request at a time: labels or a prompt and a seed in, latents and images, video or sound out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import ParamSpec

import numpy as np
from numpy.typing import NDArray

from .answers import Answers
from .backends import DeviceBackend, DeviceOptions
from .errors import Cancelled, RequestError
from .fields import takes_fields
from .lora import LoraArgument
from .opened import OpenedBundle
from .players import Players
from .progress import StepDone
from .request import Request
from .results import Results
from .values import real_array

_Given = ParamSpec("_Given")


class Session(Answers):
    """One caller's player of a bundle. Nothing is carried from one request to the next.

    `generate` is `start`, every `step(i)` in order, and `latents`. A call that comes while another one is under way
    raises RequestError; `close` waits for it; `cancel` may come at any time. In a fork of the process that opened the
    bundle every call raises EngineError, and `close` does nothing.
    """

    def __init__(self, bundle: OpenedBundle) -> None:
        super().__init__(bundle)
        self._own = bundle  # at the size that requests have which name none; `bundle` is at that of the one in progress
        self._on_step: Callable[[StepDone], object] | None = None
        self._requests = self._current = self._cancelled = 0  # numbers of requests: so far, in progress (0: none)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, backend: str = "", device: str = "auto", threads: int = 0,
        weights: str = "", options: DeviceOptions = DeviceOptions(), lora: Sequence[LoraArgument] = (),
        preload: bool = False,
    ) -> Session:  # fmt: skip
        """Short for `Bundle.open(...).session()`."""
        bundle = OpenedBundle.open(
            path, backend=backend, device=device, threads=threads, weights=weights, options=options, lora=lora,
            preload=preload,
        )
        return cls(bundle)

    def close(self) -> None:
        """Free this session's buffers, after the call that is under way; the next request allocates them anew."""
        if self.bundle.is_here:
            with self._turn.taken(wait=True):
                self._close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @takes_fields(Request)
    def generate(self, request: Request) -> NDArray[np.float32]:
        """Generate latents [B, *latent_shape] (pixels in -1..1 where the model's output is pixels); `result` decodes.

        The arguments are those of `Request`: labels, prompt or embeds, whichever the model is conditioned on; or, and
        besides, values of any of the bundle's ports by name. Raises Cancelled where it was.
        """
        with self._taken():
            self._begin(request)
            self._run_steps()
            return self._results.latents(self._lanes(), self._next_step)

    @takes_fields(Request)
    def start(self, request: Request) -> None:
        """Begin a request; arguments as for `generate`. Raises RequestError before anything changes."""
        self.begin(request)

    def begin(self, request: Request) -> None:
        """Begin a request. Raises RequestError before anything changes."""
        with self._taken():
            self._begin(request)

    def run_steps(self) -> None:
        """Run all steps of a request that has just been started; on a device as one call, without waiting, where there
        is no on_step."""
        with self._taken():
            self._run_steps()

    def step(self, index: int) -> None:
        """Run step `index`; steps run in order, each once. A step that fails ends the request."""
        self.bundle.require_here()
        self._turn.take()
        try:
            self._step(index)
        finally:
            self._turn.give_back()

    def cancel(self) -> None:
        """From any thread: the request in progress ends after the step that is running, and the call that plays it
        raises Cancelled; the session takes another. Without a request in progress it has no effect."""
        self._cancelled = self._current

    def wait(self) -> None:
        """Wait until the steps run so far are done; on the host they are. `latents` and `result` wait by themselves."""
        with self._taken():
            if isinstance(self.bundle.backend, DeviceBackend):
                self.bundle.backend.wait()

    def replace_latents(self, latents: NDArray[np.float32]) -> None:
        """Go on from other latents [B, *latent_shape], float32; what a multistep sampler remembers stays.

        Raises RequestError where they have another shape or are not finite.
        """
        with self._taken():
            lanes = self._lanes()
            given, wanted = real_array(latents, "latents"), (lanes[0].size, *self.bundle.manifest.model.latent_shape)
            if given.shape != wanted:
                raise RequestError(f"latents have shape {list(given.shape)}, expected {list(wanted)}")
            for lane in lanes:
                lane.replace_latents(self._next_step, lane.of_samples(given))

    def set_loras(self, lora: Sequence[LoraArgument]) -> None:
        """Other LoRA files in the place of those that the bundle has, () for none, from the next request on. They hold
        for all sessions of the bundle. Raises RequestError and EngineError."""
        with self._taken():
            self.bundle.set_loras(lora)

    def set_lora_strengths(self, strengths: Sequence[float]) -> None:
        """Other strengths of the LoRA files that the bundle has, from the next request on. They hold for all sessions
        of the bundle. Raises RequestError."""
        with self._taken():
            self.bundle.set_lora_strengths(strengths)

    def reset(self) -> None:
        """Forget the request in progress; buffers stay allocated."""
        with self._taken():
            self._reset()

    def _begin(self, request: Request) -> None:
        bundle = self._own.at(request.size)
        players = self._players if bundle is self.bundle else Players(bundle)
        judged, how, on_device = players.judge(request)
        if bundle is not self.bundle:
            self._close()  # free the buffers of the other size before new ones are allocated
            self.bundle, self._players, self._results = bundle, players, Results(bundle)
        self._players.open(judged, how)
        self._reset()  # until everything below is done: a program may fail
        self._players.begin(judged, how, on_device)
        self._requests += 1
        self._on_step, self._current = request.on_step, self._requests
        self._next_step, self._started = self._players.first, True

    def _run_steps(self) -> None:
        playback = self.playback
        self._end_if_cancelled()
        if playback.loop is None or self._next_step != playback.first or self._on_step is not None:
            self._play(self._run_until, self.bundle.manifest.sampler.steps)
            return
        self._players.write_noise(self._players.lanes[0], playback.first)
        self._play(playback.loop)
        self._next_step, self._current = len(playback.steps), 0

    def _step(self, index: int) -> None:
        self._lanes()
        steps = self.bundle.manifest.sampler.steps
        if index != self._next_step or index >= steps:
            raise RequestError(f"step {index} cannot run now; next is {self._next_step} of {steps} steps")
        self._end_if_cancelled()
        self._play(self._run_until, index + 1)

    def _play(self, run: Callable[_Given, None], *given: _Given.args, **by_name: _Given.kwargs) -> None:
        """Whatever fails ends the request: what is in the cache is not that of any step."""
        try:
            run(*given, **by_name)
        except Exception:
            self._reset()
            raise
        except BaseException:  # Ctrl-C: engines that are not open yet need not be
            self._close()
            raise

    def _run_until(self, end: int) -> None:
        """Run the steps before `end`. An engine leaves little of Python in the processor's caches, so each line between
        two of them costs about twenty times as much as in a loop of its own (docs/results/speed.md)."""
        players, calls = self._players, self._players.calls
        current, on_step, steps = self._current, self._on_step, self.bundle.manifest.sampler.steps
        while self._next_step < end:
            for index in range(self._next_step, min(end, players.make_ready(self._next_step))):
                calls[index]()
                self._next_step = index + 1
                if on_step is not None:
                    with self._turn.calling_back():
                        on_step(StepDone(self, index, steps))
                if self._cancelled == current:
                    self._end_if_cancelled()
        if end == steps:
            self._current = 0

    def _end_if_cancelled(self) -> None:
        if self._current and self._cancelled == self._current:
            done, steps = self._next_step, self.bundle.manifest.sampler.steps
            self._reset()
            raise Cancelled(f"cancelled after {done} of {steps} steps")

    def _close(self) -> None:
        self._players.close()
        self._reset()

    def _reset(self) -> None:
        self._started, self._next_step, self._current = False, 0, 0
        self._results.end_chunks()
