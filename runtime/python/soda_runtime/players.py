"""Judge a request, put it where the engines read it, and run its steps: all lanes of one session."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np

from .adaptive import AdaptivePlayback
from .backends import DeviceBackend
from .device_inputs import DeviceInputs, take_device_inputs
from .errors import RequestError
from .judge import Judged, judge_request
from .lane import Lane
from .loading import Call
from .opened import OpenedBundle
from .philox import INITIAL_STREAM, latent_noise, step_noise
from .playback import Playback
from .plays import JudgedPlay, judge_play
from .port_inputs import name_inputs
from .prompts import Truncation
from .request import Noise, Request
from .signature import START_KNOWN

log = logging.getLogger(__name__)


class Players:
    """lanes: of the last request; none before the first and after `close`. calls: what runs each step, in every lane.
    truncated: its prompts that were cut."""

    def __init__(self, bundle: OpenedBundle) -> None:
        self._bundle = bundle
        self.lanes: list[Lane] = []
        self.calls: Sequence[Call] = ()
        self.truncated: tuple[Truncation, ...] = ()
        self._kind: tuple[object, ...] = ()
        self._noise: Noise | int = 0

    @property
    def first(self) -> int:
        """The step that runs first."""
        return self.lanes[0].playback.first

    def judge(self, request: Request) -> tuple[Judged, JudgedPlay, DeviceInputs]:
        """Raises RequestError before anything changes."""
        self._bundle.require_weights()
        manifest, backend, tables = self._bundle.manifest, self._bundle.backend, self._bundle.tables
        if request.on_step is not None and not callable(request.on_step):
            raise RequestError(f"on_step is {type(request.on_step).__name__}; give a function of a StepDone")
        mixes = request.start_latents is not None or START_KNOWN in tables
        request, on_device = take_device_inputs(backend, name_inputs(request, manifest), manifest, mixes)
        judged = judge_request(request, manifest, self._bundle.tokenize, self._bundle.vocabulary, tables)
        opened = self._bundle.policy
        how = judge_play(
            request, opened.policy if opened else None, manifest.sampler.steps, judged.samples,
            votes_alone=not isinstance(backend, DeviceBackend),
        )  # fmt: skip
        if _apart(judged, how) and on_device != DeviceInputs():
            raise RequestError("vote='sample' of tensors on a device: give host arrays, or vote='any'")
        for each in judged.truncated:
            log.warning("%s", each)
        return judged, how, on_device

    def open(self, judged: Judged, how: JudgedPlay) -> None:
        """Buffers and bound calls of a request of this kind: those that are there, where the last one was of it."""
        size, start = judged.samples, None if judged.start is None else judged.start.first
        kind = (size, how.play, how.vote, start, self._bundle.replaced.version)
        if self._kind == kind and self.lanes:
            return
        self.close()  # free the old buffers before new ones are allocated
        opened, apart = self._bundle.policy, _apart(judged, how)
        for first in range(size) if apart else (0,):
            batch = 1 if apart else size
            if how.play == "adaptive":
                assert opened is not None
                playback: Playback = AdaptivePlayback(self._bundle, opened, batch, how.vote)
            else:
                playback = Playback(self._bundle, batch, how.play, start)
            self.lanes.append(Lane(playback, first, size))
        of_lanes = [lane.playback.calls for lane in self.lanes]
        self.calls = [partial(_call_all, calls) for calls in zip(*of_lanes, strict=True)] if apart else of_lanes[0]
        self._kind = kind

    def begin(self, judged: Judged, how: JudgedPlay, on_device: DeviceInputs) -> None:
        """Write the state and the ports, and run what prepares the request. The lanes are those of `open`."""
        manifest, backend, tables = self._bundle.manifest, self._bundle.backend, self._bundle.tables
        size, shape, start, noise = judged.samples, manifest.model.latent_shape, judged.start, judged.noise
        state = np.zeros((manifest.sampler.state_size, size, *shape), np.float32)
        initial = noise.initial if isinstance(noise, Noise) else latent_noise(noise, INITIAL_STREAM, size, shape)
        scale = np.float32(manifest.sampler.initial_scale)
        state[0] = initial * scale if start is None or start.first is None else start.state(tables, initial)
        if START_KNOWN in tables:
            state[-2] = start.latents if start else 0.0
            state[-1] = initial
        for lane in self.lanes:
            lane.write(state, judged, how.decisions)
            playback = lane.playback
            if isinstance(backend, DeviceBackend) and on_device != DeviceInputs():
                on_device.write(playback.initial_state, playback.request, backend.cuda, size)
            encode = [call for file, call in playback.encode.items() if file in judged.encode]
            for call in (*encode, *playback.prepare_request):
                call()
        self._noise, self.truncated = noise, judged.truncated

    def make_ready(self, step: int) -> int:
        """Make what steps from `step` on take, where that is not there. Returns the step before which more is made."""
        playback = self.lanes[0].playback  # all are alike in this
        if step in playback.needs_more:
            for lane in self.lanes:
                self._make_ready(lane, step)
        return playback.ready_until[step]

    def _make_ready(self, lane: Lane, step: int) -> None:
        playback = lane.playback
        for call in playback.prepares_before(step):
            call()
        if step in (playback.first, step - step % playback.noise_steps):
            self.write_noise(lane, step)

    def write_noise(self, lane: Lane, step: int) -> None:
        """Put the noise of `step` and others where they read it, as many as there is room for."""
        manifest, playback = self._bundle.manifest, lane.playback
        if not manifest.sampler.stochastic:
            return
        noise_steps, shape = playback.noise_steps, manifest.model.latent_shape
        first = step - step % noise_steps
        steps = range(first, min(first + noise_steps, manifest.sampler.steps))
        rows = range(lane.first, lane.first + playback.batch)
        noise = np.zeros((noise_steps, playback.batch, *shape), np.float32)
        if isinstance(self._noise, Noise):
            assert self._noise.steps is not None
            noise[: len(steps)] = self._noise.steps[steps.start : steps.stop, rows.start : rows.stop]
        else:
            noise[: len(steps)] = step_noise(self._noise, steps, rows, shape)
        playback.noise.write(noise)

    def close(self) -> None:
        """Free all buffers."""
        lanes, self.lanes, self.calls, self._kind = self.lanes, [], (), ()
        for lane in lanes:
            lane.playback.close()


def _call_all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _apart(judged: Judged, how: JudgedPlay) -> bool:
    """Whether each sample is a run of its own."""
    return how.play == "adaptive" and how.vote == "sample" and judged.samples > 1
