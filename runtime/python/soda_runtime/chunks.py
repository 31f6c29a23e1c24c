"""Which latent frames each call of a video's programs takes, and which frames it makes."""

from __future__ import annotations

from dataclasses import dataclass

from .manifest import Manifest, VideoFinish


@dataclass(frozen=True)
class Chunk:
    """One call: the latent frames that it takes and the frames that it makes, as slices of the whole. first: whether
    it is the call of the finish program's `first`."""

    first: bool
    latent_frames: slice
    frames: slice


def chunks_of(manifest: Manifest) -> tuple[Chunk, ...]:
    """The calls that make the video, in order; () where the bundle makes none."""
    found: list[Chunk] = []
    latent_frame = frame = 0
    for finish in manifest.finish:
        if not isinstance(finish, VideoFinish):
            continue
        while frame < finish.shape[0]:
            first = not found and bool(finish.first)
            used = finish.first[0] if first else finish
            begin, latent_frame = latent_frame, latent_frame + used.latent_frames
            shown, frame = frame, frame + used.frames
            found.append(Chunk(first, slice(begin, latent_frame), slice(shown, frame)))
    return tuple(found)


def chunk_problem(manifest: Manifest) -> str | None:
    """Whether the calls take all latent frames and make all frames; their numbers are in range already."""
    shape = manifest.model.latent_shape
    for finish in manifest.finish:
        if not isinstance(finish, VideoFinish):
            continue
        if len(shape) != 4:
            return f"finish[0]: latents of shape {list(shape)} are no frames of a video"
        latent_frames = shape[1] - sum(first.latent_frames for first in finish.first)
        frames = finish.shape[0] - sum(first.frames for first in finish.first)
        calls = latent_frames // finish.latent_frames
        if calls < 1 or (latent_frames, frames) != (calls * finish.latent_frames, calls * finish.frames):
            return f"finish[0]: calls do not make {finish.shape[0]} frames of {shape[1]} latent frames"
    return None
