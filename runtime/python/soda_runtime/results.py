"""Make images, video in chunks, or sound of latents: those of now, or a preview's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .chunks import chunks_of
from .errors import EngineError, RequestError
from .lane import Lane
from .manifest import VideoFinish
from .opened import OpenedBundle
from .video import VideoMaker

Lanes = Sequence[Lane]
Floats = NDArray[np.float32]


class Results:
    """Results of one session. Of all functions, steps_done: of the request in progress; latents: [B, *latent_shape]."""

    def __init__(self, bundle: OpenedBundle) -> None:
        self._bundle = bundle
        self._chunks = object()  # stands for the video that is being made
        self.chunks = chunks_of(bundle.manifest)

    def latents(self, lanes: Lanes, steps_done: int) -> Floats:
        """The latents of now. Raises EngineError where one is not finite."""
        latents = np.concatenate([lane.latents(steps_done) for lane in lanes])
        self.require_finite("latents", latents, steps_done)
        return latents

    def result(self, lanes: Lanes, steps_done: int, preview: Floats | None = None) -> Floats:
        """What `Session.result` gives. preview: latents to take in place of those of now."""
        manifest = self._bundle.manifest
        if manifest.finish:
            finish = manifest.finish[0]
            if isinstance(finish, VideoFinish):
                return self._video(lanes, self.latents(lanes, steps_done) if preview is None else preview, steps_done)
            given = [None if preview is None else np.ascontiguousarray(lane.of_samples(preview)) for lane in lanes]
            made = np.concatenate(
                [lane.playback.finish(finish, steps_done, own) for lane, own in zip(lanes, given, strict=True)]
            )
            self.require_finite(finish.kind, made, steps_done)
        elif manifest.model.output == "pixels":
            pixels = self.latents(lanes, steps_done) if preview is None else preview
            made = np.clip(pixels / 2 + 0.5, 0.0, 1.0)
        else:
            raise RequestError("this bundle has no decoder, its results are latents; build it with the model's VAE")
        return made if manifest.result_kind == "audio" else np.ascontiguousarray(np.moveaxis(made, -3, -1))

    def begin_chunks(self, lanes: Lanes, latents: Floats) -> object:
        """Make a video of latents; what is returned stands for it."""
        for lane, maker in self._makers(lanes):
            maker.begin(lane.of_samples(latents))
        self._chunks = object()
        return self._chunks

    def require_video(self, lanes: Lanes) -> None:
        """Raises RequestError where the bundle makes none."""
        self._makers(lanes)

    def chunk(self, lanes: Lanes, began: object, index: int, steps_done: int) -> Floats:
        """Chunk `index` of the video that `began` stands for, [B, frames, H, W, channels]; in order."""
        if began is not self._chunks:
            raise RequestError(
                "these chunks have ended: a request, another result or a reset came in between; ask for chunks() anew"
            )
        made = np.concatenate([maker.make(index) for _, maker in self._makers(lanes)])
        self.require_finite("video", made, steps_done)
        return np.ascontiguousarray(np.moveaxis(made, -3, -1))

    def end_chunks(self) -> None:
        """No video is being made any more."""
        self._chunks = object()

    def require_finite(self, what: str, values: Floats, steps_done: int) -> None:
        """Raises EngineError where a value is NaN or infinite."""
        rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(rows):
            manifest = self._bundle.manifest
            where = f"{what} of sample {rows[0]} after {steps_done} of {manifest.sampler.steps} steps"
            raise EngineError(
                f"{self._bundle.folder}: {where}: a value is NaN or infinite; {manifest.precision} may be too narrow "
                f"for the model: build with another --precision"
            )

    def _video(self, lanes: Lanes, latents: Floats, steps_done: int) -> Floats:
        """All chunks in one array, written as they are made."""
        began, chunks = self.begin_chunks(lanes, latents), self.chunks
        first = self.chunk(lanes, began, 0, steps_done)
        video = np.empty((len(first), chunks[-1].frames.stop, *first.shape[2:]), np.float32)
        video[:, chunks[0].frames] = first
        for index in range(1, len(chunks)):
            video[:, chunks[index].frames] = self.chunk(lanes, began, index, steps_done)
        return video

    def _makers(self, lanes: Lanes) -> list[tuple[Lane, VideoMaker]]:
        manifest = self._bundle.manifest
        for finish in manifest.finish:
            if isinstance(finish, VideoFinish):
                return [(lane, lane.playback.video(finish)) for lane in lanes]
        kind = manifest.result_kind
        raise RequestError(
            f"this bundle makes {kind or 'latents'}, not video; ask for {'result' if kind else 'latents'}()"
        )
