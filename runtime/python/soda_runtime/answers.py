"""What a session says of the request in progress: latents, previews, results, decisions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .adaptive import AdaptivePlayback
from .backends import DeviceBackend
from .dlpack import DeviceTensor
from .errors import RequestError
from .guard import Turn
from .lane import Lane
from .opened import OpenedBundle
from .playback import Playback
from .players import Players
from .preview import preview_of
from .prompts import Truncation
from .results import Results


class Answers:
    """What does not change the request in progress; a Session plays it."""

    def __init__(self, bundle: OpenedBundle) -> None:
        self.bundle = bundle
        self._players, self._results = Players(bundle), Results(bundle)
        self._next_step = 0
        self._started = False
        self._turn = Turn()

    def latents(self) -> NDArray[np.float32]:
        """The latents [B, *latent_shape] after the steps run so far. Raises EngineError where one is not finite."""
        with self._taken(looks=True):
            return self._results.latents(self._lanes(), self._next_step)

    def latents_on_device(self) -> DeviceTensor:
        """The latents [B, *latent_shape] where they are, for another library's from_dlpack.

        The next request changes them: what reads them in another stream than DeviceOptions.stream must be done by then.
        Whether they are finite is not looked at. Raises RequestError where they are in host memory.
        """
        with self._taken():
            playback, backend = self.playback, self.bundle.backend
            if not isinstance(backend, DeviceBackend):
                raise RequestError("this session's latents are in host memory; ask for latents()")
            if len(self._lanes()) > 1:
                raise RequestError("the samples decide for themselves, so their latents lie apart; give vote='any'")
            shape = (playback.batch, *self.bundle.manifest.model.latent_shape)
            return DeviceTensor(playback.state_after(self._next_step), backend.cuda, shape)

    def preview(self) -> NDArray[np.float32]:
        """The clean latents that the latest step's prediction stands for ("x0"): [B, *latent_shape].

        Of a step that did not call the model, those of the prediction that stood in. Raises RequestError before the
        first step and where the bundle or its sampler cannot say, EngineError where a value is not finite.
        """
        with self._taken(looks=True):
            return self._preview()

    def preview_result(self) -> NDArray[np.float32]:
        """What the bundle makes of `preview`, as `result` does of the latents."""
        with self._taken(looks=True):
            return self._results.result(self._lanes(), self._next_step, self._preview())

    def result(self) -> NDArray[np.float32]:
        """What the bundle makes of the latents after the steps run so far: images [B, H, W, channels] or video
        [B, frames, H, W, channels] in 0..1, or audio [B, channels, samples] in -1..1.

        Raises RequestError where the model's latents are not pixels and the bundle has no decoder, EngineError where
        a value is not finite.
        """
        with self._taken(looks=True):
            return self._results.result(self._lanes(), self._next_step)

    def chunks(self) -> Iterator[NDArray[np.float32]]:
        """The video that `result` gives, as `num_chunks` pieces [B, frames, H, W, channels] along its frames, in order.
        Each is made when it is asked for, in the same memory; later steps do not change them.

        Raises RequestError where the bundle makes no video, and in the iteration when another request, result or a
        reset came in between; EngineError where a value is not finite.
        """
        with self._taken():
            lanes = self._lanes()
            self._results.require_video(lanes)
            began = self._results.begin_chunks(lanes, self._results.latents(lanes, self._next_step))

        def pieces() -> Iterator[NDArray[np.float32]]:
            for index in range(self.num_chunks):
                with self._taken():
                    piece = self._results.chunk(self._players.lanes, began, index, self._next_step)
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
        return len(self._results.chunks)

    @property
    def decisions(self) -> NDArray[np.int64]:
        """What the steps so far of an adaptive request did: [steps, B], indices into the policy's actions, 0 computed.

        Raises RequestError where the request is not adaptive.
        """
        playbacks = [lane.playback for lane in self._lanes()]
        columns = [lane.decisions for lane in playbacks if isinstance(lane, AdaptivePlayback)]
        if not columns:
            raise RequestError(f"this request plays {playbacks[0].play!r}; policy='adaptive' has decisions")
        repeats = [lane.batch for lane in playbacks]
        return np.repeat(np.array(columns, np.int64).T, repeats, axis=1)

    @property
    def truncated(self) -> tuple[Truncation, ...]:
        """Prompts of the request in progress whose end the model does not read."""
        self._lanes()
        return self._players.truncated

    @property
    def playback(self) -> Playback:
        """The buffers and bound calls of the request in progress, of the first sample where each has its own; for
        instruments and tests."""
        return self._lanes()[0].playback

    def _lanes(self) -> list[Lane]:
        if not self._players.lanes or not self._started:
            raise RequestError("no request has been started; call start() or generate() first")
        return self._players.lanes

    @contextmanager
    def _taken(self, looks: bool = False) -> Iterator[None]:
        self.bundle.require_here()
        with self._turn.taken(looks=looks):
            yield

    def _preview(self) -> NDArray[np.float32]:
        lanes, bundle, latest = self._lanes(), self.bundle, self._next_step - 1
        if latest < self._players.first:
            raise RequestError("no preview before the first step has run")
        preview = np.concatenate([preview_of(lane, bundle.manifest, bundle.tables, latest) for lane in lanes])
        self._results.require_finite("the preview", preview, self._next_step)
        return preview
