"""Play one request at a time: labels or a prompt and a seed in, latents and images, video or sound out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .adaptive import AdaptivePlayback
from .backends import DeviceBackend, DeviceOptions
from .chunks import chunks_of
from .device_inputs import DeviceInputs, take_device_inputs
from .dlpack import DeviceTensor
from .errors import EngineError, RequestError
from .guard import Turn
from .judge import judge_request
from .lane import Lane
from .manifest import VideoFinish
from .opened import OpenedBundle
from .philox import INITIAL_STREAM, latent_noise
from .playback import Playback
from .plays import JudgedPlay, judge_play
from .port_inputs import name_inputs
from .request import Embeds, Noise, Request
from .signature import START_KNOWN
from .video import VideoMaker


class Session:
    """One caller's player of a bundle. Nothing is carried from one request to the next.

    `generate` is `start`, every `step(i)` in order, and `latents`. A call that comes while another one is under way
    raises RequestError; `close` waits for it. In a fork of the process that opened the bundle every call raises
    EngineError, and `close` does nothing.
    """

    def __init__(self, bundle: OpenedBundle) -> None:
        self.bundle = bundle
        self._lanes: list[Lane] = []
        self._kind: tuple[object, ...] = ()
        self._next_step = 0
        self._started = False
        self._chunks = object()  # stands for the video that is being made
        self._noise: Noise | int = 0
        self._turn = Turn()

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, backend: str = "", device: str = "auto", threads: int = 0,
        weights: str = "", options: DeviceOptions = DeviceOptions(),
    ) -> Session:  # fmt: skip
        """Short for `Bundle.open(...).session()`."""
        bundle = OpenedBundle.open(
            path, backend=backend, device=device, threads=threads, weights=weights, options=options
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

    def generate(
        self,
        labels: int | Sequence[int] | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] = "",
        embeds: Embeds | None = None,
        inputs: Mapping[str, Any] | None = None,
        negative_inputs: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch: int = 0,
        noise: Noise | None = None,
        guidance: float | None = None,
        accelerated: bool = True,
        start_latents: NDArray[np.float32] | None = None,
        strength: float | None = None,
        start_step: int | None = None,
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        negative_prompt_3: str | Sequence[str] | None = None,
        policy: Literal["", "frozen", "adaptive", "full"] = "",
        vote: Literal["", "sample", "any", "mean"] = "",
        decisions: Any = None,
    ) -> NDArray[np.float32]:
        """Generate latents [B, *latent_shape] (pixels in -1..1 where the model's output is pixels); `result` decodes.

        The arguments are those of `Request`: labels, prompt or embeds, whichever the model is conditioned on; or, and
        besides, values of any of the bundle's ports by name.
        """
        request = Request(
            labels, prompt, negative_prompt, embeds, inputs or {}, negative_inputs or {}, seed, batch, noise, guidance,
            accelerated, start_latents, strength, start_step, prompt_2, prompt_3, negative_prompt_2, negative_prompt_3,
            policy, vote, decisions,
        )  # fmt: skip
        with self._taken():
            self._begin(request)
            self._run_steps()
            return self._latents()

    def start(
        self,
        labels: int | Sequence[int] | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] = "",
        embeds: Embeds | None = None,
        inputs: Mapping[str, Any] | None = None,
        negative_inputs: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch: int = 0,
        noise: Noise | None = None,
        guidance: float | None = None,
        accelerated: bool = True,
        start_latents: NDArray[np.float32] | None = None,
        strength: float | None = None,
        start_step: int | None = None,
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        negative_prompt_3: str | Sequence[str] | None = None,
        policy: Literal["", "frozen", "adaptive", "full"] = "",
        vote: Literal["", "sample", "any", "mean"] = "",
        decisions: Any = None,
    ) -> None:
        """Begin a request; arguments as for `generate`. Raises RequestError before anything changes."""
        request = Request(
            labels, prompt, negative_prompt, embeds, inputs or {}, negative_inputs or {}, seed, batch, noise, guidance,
            accelerated, start_latents, strength, start_step, prompt_2, prompt_3, negative_prompt_2, negative_prompt_3,
            policy, vote, decisions,
        )  # fmt: skip
        self.begin(request)

    def begin(self, request: Request) -> None:
        """Begin a request. Raises RequestError before anything changes."""
        with self._taken():
            self._begin(request)

    def run_steps(self) -> None:
        """Run all steps of a request that has just been started; on a device as one call, without waiting."""
        with self._taken():
            self._run_steps()

    def step(self, index: int) -> None:
        """Run step `index`; steps run in order, each once. A step that fails ends the request."""
        with self._taken():
            self._step(index)

    def wait(self) -> None:
        """Wait until the steps run so far are done; on the host they are. `latents` and `result` wait by themselves."""
        with self._taken():
            if isinstance(self.bundle.backend, DeviceBackend):
                self.bundle.backend.wait()

    def latents(self) -> NDArray[np.float32]:
        """The latents [B, *latent_shape] after the steps run so far. Raises EngineError where one is not finite."""
        with self._taken():
            return self._latents()

    def latents_on_device(self) -> DeviceTensor:
        """The latents [B, *latent_shape] where they are, for another library's from_dlpack.

        The next request changes them: what reads them in another stream than DeviceOptions.stream must be done by then.
        Whether they are finite is not looked at. Raises RequestError where they are in host memory.
        """
        with self._taken():
            playback, backend = self.playback, self.bundle.backend
            if not isinstance(backend, DeviceBackend):
                raise RequestError("this session's latents are in host memory; ask for latents()")
            if len(self._lanes) > 1:
                raise RequestError("the samples decide for themselves, so their latents lie apart; give vote='any'")
            shape = (playback.batch, *self.bundle.manifest.model.latent_shape)
            return DeviceTensor(playback.state_after(self._next_step), backend.cuda, shape)

    def result(self) -> NDArray[np.float32]:
        """What the bundle makes of the latents after the steps run so far: images [B, H, W, channels] or video
        [B, frames, H, W, channels] in 0..1, or audio [B, channels, samples] in -1..1.

        Raises RequestError where the model's latents are not pixels and the bundle has no decoder, EngineError where
        a value is not finite.
        """
        with self._taken():
            return self._result()

    def chunks(self) -> Iterator[NDArray[np.float32]]:
        """The video that `result` gives, as `num_chunks` pieces [B, frames, H, W, channels] along its frames, in order.
        Each is made when it is asked for, in the same memory; later steps do not change them.

        Raises RequestError where the bundle makes no video, and in the iteration when another request, result or a
        reset came in between; EngineError where a value is not finite.
        """
        with self._taken():
            began = self._begin_chunks()

        def pieces() -> Iterator[NDArray[np.float32]]:
            for index in range(self.num_chunks):
                with self._taken():
                    piece = self._chunk(began, index)
                yield piece

        return pieces()

    def images(self) -> NDArray[np.float32]:
        """The latents after the steps run so far as images [B, H, W, channels] in 0..1.

        Raises RequestError where `result` does, or gives no images.
        """
        if self.result_kind in ("video", "audio"):
            raise RequestError(f"this bundle makes {self.result_kind}, not images; ask for result()")
        return self.result()

    @property
    def next_step(self) -> int:
        """The step that runs next, of the request in progress: 0 at first, or where it starts from latents."""
        return self._next_step

    @property
    def result_kind(self) -> Literal["image", "video", "audio", ""]:
        """What `result` gives; "" where there is none."""
        return self.bundle.manifest.result_kind

    @property
    def num_chunks(self) -> int:
        """Pieces that `chunks` gives; 0 where the bundle makes no video."""
        return len(chunks_of(self.bundle.manifest))

    @property
    def decisions(self) -> NDArray[np.int64]:
        """What the steps so far of an adaptive request did: [steps, B], indices into the policy's actions, 0 computed.

        Raises RequestError where the request is not adaptive.
        """
        playbacks = [lane.playback for lane in self._require_lanes()]
        columns = [lane.decisions for lane in playbacks if isinstance(lane, AdaptivePlayback)]
        if not columns:
            raise RequestError(f"this request plays {playbacks[0].play!r}; policy='adaptive' has decisions")
        repeats = [lane.batch for lane in playbacks]
        return np.repeat(np.array(columns, np.int64).T, repeats, axis=1)

    @property
    def playback(self) -> Playback:
        """The buffers and bound calls of the request in progress, of the first sample where each has its own; for
        instruments and tests."""
        return self._require_lanes()[0].playback

    def _require_lanes(self) -> list[Lane]:
        if not self._lanes or not self._started:
            raise RequestError("no request has been started; call start() or generate() first")
        return self._lanes

    def reset(self) -> None:
        """Forget the request in progress; buffers stay allocated."""
        with self._taken():
            self._reset()

    @contextmanager
    def _taken(self) -> Iterator[None]:
        self.bundle.require_here()
        with self._turn.taken():
            yield

    def _begin(self, request: Request) -> None:
        self.bundle.require_weights()
        manifest, backend = self.bundle.manifest, self.bundle.backend
        mixes = request.start_latents is not None or START_KNOWN in self.bundle.tables
        request, on_device = take_device_inputs(backend, name_inputs(request, manifest), manifest, mixes)
        tables = self.bundle.tables
        judged = judge_request(request, manifest, self.bundle.tokenize, self.bundle.vocabulary, tables)
        size, shape, start = judged.samples, manifest.model.latent_shape, judged.start
        opened = self.bundle.policy
        how = judge_play(
            request, opened.policy if opened else None, manifest.sampler.steps, size,
            votes_alone=not isinstance(backend, DeviceBackend),
        )  # fmt: skip
        apart = how.play == "adaptive" and how.vote == "sample" and size > 1
        if apart and on_device != DeviceInputs():
            raise RequestError("vote='sample' of tensors on a device: give host arrays, or vote='any'")
        self._open_lanes(size, how, None if start is None else start.first, apart)
        self._reset()  # until everything below is done: a program may fail
        state = np.zeros((manifest.sampler.state_size, size, *shape), np.float32)
        noise = judged.noise
        initial = noise.initial if isinstance(noise, Noise) else latent_noise(noise, INITIAL_STREAM, size, shape)
        scale = np.float32(manifest.sampler.initial_scale)
        state[0] = initial * scale if start is None or start.first is None else start.state(tables, initial)
        if START_KNOWN in tables:
            state[-2] = start.latents if start else 0.0
            state[-1] = initial
        for lane in self._lanes:
            lane.write(state, judged, how.decisions)
            playback = lane.playback
            if isinstance(backend, DeviceBackend) and on_device != DeviceInputs():
                on_device.write(playback.initial_state, playback.request, backend.cuda, size)
            encode = [call for file, call in playback.encode.items() if file in judged.encode]
            for call in (*encode, *playback.prepare_request):
                call()
        self._noise = noise
        self._next_step, self._started = self._lanes[0].playback.first, True

    def _open_lanes(self, size: int, how: JudgedPlay, start: int | None, apart: bool) -> None:
        """Buffers and bound calls of a request of this kind: those that are there, where the last one was of it."""
        kind = (size, how.play, how.vote, start)
        if self._kind == kind and self._lanes:
            return
        self._close()  # free the old buffers before new ones are allocated
        opened = self.bundle.policy
        for first in range(size) if apart else (0,):
            batch = 1 if apart else size
            if how.play == "adaptive":
                assert opened is not None
                playback: Playback = AdaptivePlayback(self.bundle, opened, batch, how.vote)
            else:
                playback = Playback(self.bundle, batch, how.play, start)
            self._lanes.append(Lane(playback, first, size))
        self._kind = kind

    def _run_steps(self) -> None:
        playback = self.playback
        if playback.loop is None or self._next_step != playback.first:
            for i in range(self._next_step, self.bundle.manifest.sampler.steps):
                self._step(i)
            return
        self._write_noise(self._lanes[0], playback.first)
        with self._dropping_failures():
            playback.loop()
        self._next_step = len(playback.steps)

    def _step(self, index: int) -> None:
        lanes, steps = self._require_lanes(), self.bundle.manifest.sampler.steps
        if index != self._next_step or index >= steps:
            raise RequestError(f"step {index} cannot run now; next is {self._next_step} of {steps} steps")
        with self._dropping_failures():
            for lane in lanes:
                playback = lane.playback
                for call in playback.prepares_before(index):
                    call()
                if index in (playback.first, index - index % playback.noise_steps):
                    self._write_noise(lane, index)
                playback.run(index)
        self._next_step = index + 1

    @contextmanager
    def _dropping_failures(self) -> Iterator[None]:
        """Whatever fails ends the request: what is in the cache is not that of any step."""
        try:
            yield
        except Exception:
            self._reset()
            raise
        except BaseException:  # Ctrl-C: engines that are not open yet need not be
            self._close()
            raise

    def _latents(self) -> NDArray[np.float32]:
        latents = np.concatenate([lane.latents(self._next_step) for lane in self._require_lanes()])
        self._require_finite("latents", latents)
        return latents

    def _result(self) -> NDArray[np.float32]:
        manifest, lanes = self.bundle.manifest, self._require_lanes()
        if manifest.finish:
            finish = manifest.finish[0]
            if isinstance(finish, VideoFinish):
                return self._video()
            made = np.concatenate([lane.playback.finish(finish, self._next_step) for lane in lanes])
            self._require_finite(finish.kind, made)
        elif manifest.model.output == "pixels":
            made = np.clip(self._latents() / 2 + 0.5, 0.0, 1.0)
        else:
            raise RequestError("this bundle has no decoder, its results are latents; build it with the model's VAE")
        return made if self.result_kind == "audio" else np.ascontiguousarray(np.moveaxis(made, -3, -1))

    def _video(self) -> NDArray[np.float32]:
        """All chunks in one array, written as they are made."""
        began, chunks = self._begin_chunks(), chunks_of(self.bundle.manifest)
        first = self._chunk(began, 0)
        video = np.empty((len(first), chunks[-1].frames.stop, *first.shape[2:]), np.float32)
        video[:, chunks[0].frames] = first
        for index in range(1, len(chunks)):
            video[:, chunks[index].frames] = self._chunk(began, index)
        return video

    def _begin_chunks(self) -> object:
        """Make a video of the latents of now; what is returned stands for it."""
        makers, latents = self._makers(), self._latents()
        for lane, maker in makers:
            maker.begin(lane.of_samples(latents))
        self._chunks = object()
        return self._chunks

    def _chunk(self, began: object, index: int) -> NDArray[np.float32]:
        if began is not self._chunks:
            raise RequestError(
                "these chunks have ended: a request, another result or a reset came in between; ask for chunks() anew"
            )
        made = np.concatenate([maker.make(index) for _, maker in self._makers()])
        self._require_finite("video", made)
        return np.ascontiguousarray(np.moveaxis(made, -3, -1))

    def _makers(self) -> list[tuple[Lane, VideoMaker]]:
        lanes = self._require_lanes()
        for finish in self.bundle.manifest.finish:
            if isinstance(finish, VideoFinish):
                return [(lane, lane.playback.video(finish)) for lane in lanes]
        what = f"{self.result_kind or 'latents'}, not video; ask for {'result' if self.result_kind else 'latents'}()"
        raise RequestError(f"this bundle makes {what}")

    def _require_finite(self, what: str, values: NDArray[np.float32]) -> None:
        rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(rows):
            manifest = self.bundle.manifest
            where = f"{what} of sample {rows[0]} after {self._next_step} of {manifest.sampler.steps} steps"
            raise EngineError(
                f"{self.bundle.folder}: {where}: a value is NaN or infinite; {manifest.precision} may be too narrow "
                f"for the model: build with another --precision"
            )

    def _close(self) -> None:
        lanes, self._lanes, self._kind = self._lanes, [], ()
        self._reset()
        for lane in lanes:
            lane.playback.close()

    def _reset(self) -> None:
        self._started, self._next_step, self._chunks = False, 0, object()

    def _write_noise(self, lane: Lane, step: int) -> None:
        """Put the noise of `step` and others where they read it, as many as there is room for."""
        manifest, playback = self.bundle.manifest, lane.playback
        if not manifest.sampler.stochastic:
            return
        noise_steps, steps = playback.noise_steps, manifest.sampler.steps
        first = step - step % noise_steps
        noise = np.zeros((noise_steps, playback.batch, *manifest.model.latent_shape), np.float32)
        for row, index in enumerate(range(first, min(first + noise_steps, steps))):
            noise[row] = lane.of_samples(self._step_noise(index, lane.size))
        playback.noise.write(noise)

    def _step_noise(self, index: int, batch: int) -> NDArray[np.float32]:
        if isinstance(self._noise, Noise):
            assert self._noise.steps is not None
            noise: NDArray[np.float32] = self._noise.steps[index]
            return noise
        return latent_noise(self._noise, 1 + index, batch, self.bundle.manifest.model.latent_shape)
