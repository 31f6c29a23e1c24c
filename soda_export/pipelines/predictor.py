"""Play a bundle's steps for a sampler outside of it: latents and ports in, the model's prediction out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from soda_runtime.backends import DeviceOptions, Engine, Memory
from soda_runtime.lora import LoraArgument
from soda_runtime.manifest import HintPort, Manifest
from soda_runtime.opened import OpenedBundle
from soda_runtime.playback import Playback
from soda_runtime.replaced import Replaced
from soda_runtime.signature import COEFFICIENTS, MASK, START_KNOWN, Port, Signature, coefficient_count, step_signature
from torch import Tensor

from ..errors import BundleError, RequestError
from ..export.steps import PREDICTION
from ..models.record import RECORD_NAME, DenoiserRecord, read_record
from .taps import TappedEngine, TappingBackend, can_tap, prediction_port


class PredictionBundle(OpenedBundle):
    """A bundle whose step programs hand out the model's prediction: of all rows where programs are graphs on the host,
    else, where there is no guidance in them, as the state after a step whose row is s = 1, A = 0, b = 1."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        if can_tap(self.backend):
            self.backend = TappingBackend(self.backend)
            _ = self.port  # bundles of older versions do not say what it is
        elif self.manifest.rows_per_sample == 2:
            raise BundleError(
                f"{self.folder}: guidance is inside its {self.manifest.backend} engines, so they do not hand out what "
                "the pipeline guides; build it with --guidance 1, or with --backend ort"
            )
        elif self.shape != self.manifest.model.latent_shape:
            raise BundleError(
                f"{self.folder}: its {self.manifest.backend} engines do not hand out the variance that the model "
                "predicts; build it with --backend ort, or use SodaPipeline"
            )

    @property
    def tapped(self) -> bool:
        """Whether steps hand out the prediction of all rows."""
        return isinstance(self.backend, TappingBackend)

    @cached_property
    def record(self) -> DenoiserRecord:
        """The module that the bundle was made of, at this size. Raises BundleError."""
        first = self.at(self.sizes[0]) if self.sizes else self
        if RECORD_NAME not in first.manifest.files:
            raise BundleError(f"{self.folder}: has no {RECORD_NAME}, so an older soda-export built it; build it again")
        self._shared.files.require_same([RECORD_NAME])
        record = read_record((self.folder / RECORD_NAME).read_bytes(), str(self.folder / RECORD_NAME))
        if first is self or self.size is None:
            return record
        height, width = self.size
        size = replace(record.size, height=height, width=width)
        return msgspec.structs.replace(record, size=size, latent_shape=self.manifest.model.latent_shape)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of a row's prediction."""
        return tuple(self.record.family.prediction_shape(self.record.sizes))

    @cached_property
    def port(self) -> Port:
        """The prediction of step programs that hand it out."""
        path = self.folder / self.manifest.programs[self.manifest.baseline_program].file
        return prediction_port(path, self.shape)

    @cached_property
    def _blocks(self) -> WeakKeyDictionary[Memory, Memory]:
        return WeakKeyDictionary()

    def engine(self, program: int, replaced: Replaced | None = None) -> Engine:
        """The engine of a step program, with its prediction where it makes one."""
        if not (self.tapped and calls_model(self.manifest, program)):
            return super().engine(program, replaced)
        used, own = self.manifest.programs[program], step_signature(self.manifest, program)
        signature = Signature(own.inputs, {**own.outputs, PREDICTION: self.port}, own.reads)
        engine = self._open(used.file, used.weights, signature, replaced=replaced)
        return TappedEngine(engine, self.port, self.manifest.rows_per_sample, self.block)

    def block(self, state: Memory, nbytes: int) -> Memory:
        """Where steps that begin with that state put their prediction."""
        with self._shared.lock:
            if state not in self._blocks:
                self._blocks[state] = self.backend.allocate(nbytes)
            return self._blocks[state]


def calls_model(manifest: Manifest, program: int) -> bool:
    """Whether a step program calls the model: others go on from what the sampler remembers (BUNDLE.md, 8.4)."""
    used = manifest.programs[program]
    return bool(used.reads or used.writes or {tensor.name for tensor in manifest.tensors}.intersection(used.inputs))


class PredictionPlayback(Playback):
    """A schedule whose steps change nothing but the cache: the state after a step is its prediction."""

    def _rows(self) -> NDArray[np.float32]:
        """[S, columns]: s = 1, A = 0, b = (1, 0, ..), c = 0; the weights of forecasts are the schedule's."""
        manifest = self._bundle.manifest
        rows: NDArray[np.float32] = self._bundle.tables[COEFFICIENTS].copy()
        n = manifest.sampler.state_size
        rows[:, : coefficient_count(n, manifest.sampler.learned_variance)] = 0.0
        rows[:, 0] = rows[:, 1 + n * n] = 1.0
        return rows


class Predictor:
    """One run at a time of a bundle's schedule, on rows that the caller gives."""

    def __init__(self, bundle: PredictionBundle) -> None:
        self._bundle = bundle
        self._playback: PredictionPlayback | None = None
        self._kind: tuple[int, int, int] | None = None  # samples, first step and weights of what is bound
        self._ready = -1  # the window of steps that is prepared

    def begin(self, rows: int, first: int, ports: Mapping[str, NDArray[Any]]) -> None:
        """Begin a run at step `first` with so many rows. ports: [rows, *shape] each, the conditional ones first where
        there is guidance."""
        bundle, samples = self._bundle, rows // self._bundle.manifest.rows_per_sample
        bundle.require_here()
        bundle.require_weights()
        kind = (samples, first, bundle.replaced.version)
        if self._kind != kind:
            self.close()
            self._playback = PredictionPlayback(bundle, samples, "frozen", first or None)
            self._kind = kind
        self.give(ports)

    def give(self, ports: Mapping[str, NDArray[Any]]) -> None:
        """Take other values of the ports from the next step on."""
        playback = self._started()
        for name, values in ports.items():
            playback.request[name].write(np.ascontiguousarray(values))
        for port in self._bundle.manifest.ports:
            if isinstance(port, HintPort) and port.name == MASK and START_KNOWN in self._bundle.tables:
                memory = playback.request[MASK]
                memory.write(np.ones(memory.nbytes // 4, np.float32))  # the pipeline keeps what it wants to keep
        for call in playback.prepare_request:
            call()
        self._ready = -1

    def predict(self, step: int, latents: NDArray[np.float32]) -> Tensor:
        """Step `step` of the run. latents: [samples, *latent_shape], as the model takes them -> [rows,
        *prediction_shape]."""
        playback, manifest = self._started(), self._bundle.manifest
        window = step // playback.window
        if window != self._ready:
            for call in playback.prepares[window]:
                call()
            self._ready = window
        state = np.zeros((manifest.sampler.state_size, *latents.shape), np.float32)
        state[0] = latents
        playback.state_after(step).write(state)
        playback.calls[step]()
        if not self._bundle.tapped:
            after = playback.state_after(step + 1).read().view(np.float32)
            return torch.from_numpy(after.reshape(state.shape)[0].copy())
        raw = torch.from_numpy(self._bundle.block(playback.state_after(step), 0).read().copy())
        dtype = getattr(torch, self._bundle.port.dtype)
        return raw.view(dtype).reshape(-1, *self._bundle.shape).float()  # type: ignore[no-any-return]

    def runs_model(self, step: int) -> bool:
        """Whether a step of the run that has begun calls the model."""
        playback, manifest = self._started(), self._bundle.manifest
        program = manifest.steps[step].program if step in playback.cached else manifest.baseline_program
        return calls_model(manifest, program)

    def close(self) -> None:
        """Free the buffers."""
        if self._playback is not None:
            self._playback.close()
        self._playback, self._kind = None, None

    def _started(self) -> PredictionPlayback:
        if self._playback is None:
            raise RequestError("no run has begun")
        return self._playback


def open_predictions(
    path: Any, *, backend: str = "", device: str = "auto", threads: int = 0, options: DeviceOptions = DeviceOptions(),
    lora: Sequence[LoraArgument] = (),
) -> PredictionBundle:  # fmt: skip
    """Open a bundle for its predictions. Raises BundleError, EngineError, and RequestError for a LoRA."""
    return PredictionBundle.open(path, backend=backend, device=device, threads=threads, options=options, lora=lora)
