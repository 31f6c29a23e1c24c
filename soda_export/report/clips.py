"""Generated clips as files: frames, one after the other, to .mp4, .gif or a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UsageError
from .images import make_sheet

Pixels = NDArray[np.uint8]
"""[height, width, 3] in 0..255"""
FRAME_NAMES = "frame-*.png"
_CODEC = "libx264"
_QUALITY = "18"  # libx264's constant rate factor; visually lossless from about 18 down
_MOST_DENOMINATOR = 1001  # of a frame rate: 24000/1001 is one


def frames_of(chunks: Iterable[NDArray[np.float32]]) -> Iterator[Pixels]:
    """Chunks [B, frames, H, W, 1 or 3] in 0..1 -> each frame, samples side by side."""
    for chunk in chunks:
        for index in range(chunk.shape[1]):
            yield make_sheet(chunk[:, index])


def require_mp4(out: str) -> None:
    """Raises UsageError where .mp4 cannot be written."""
    advice = "run `pip install soda-export[video]`, or name a .gif or a folder (frames/)"
    try:
        import av
    except ImportError:
        raise UsageError(f"--out {out}: .mp4 needs the package av; {advice}") from None
    if _CODEC not in av.codecs_available:
        raise UsageError(f"--out {out}: the package av that is installed has no {_CODEC}; {advice}")


def write_mp4(frames: Iterable[Pixels], frames_per_second: float, file: IO[bytes]) -> None:
    """H.264; an odd side gets its last row or column twice, as its colours are at half the size."""
    import av

    with av.open(file, "w", format="mp4") as container:
        stream: Any = None
        for frame in frames:
            even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            if stream is None:
                rate = Fraction(frames_per_second).limit_denominator(_MOST_DENOMINATOR)
                stream = container.add_stream(_CODEC, rate=rate, options={"crf": _QUALITY})
                stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def write_gif(frames: Iterable[Pixels], count: int, frames_per_second: float, file: IO[bytes]) -> None:
    """Endlessly repeated. Times are whole hundredths of a second, so frames differ in length where the rate asks it."""
    ends = [round(100 * (i + 1) / frames_per_second) for i in range(count)]
    lengths = [10 * (end - begin) for begin, end in zip([0, *ends], ends, strict=False)]
    pictures = (Image.fromarray(frame) for frame in frames)
    first = next(pictures)
    first.save(file, "GIF", save_all=True, append_images=pictures, duration=lengths, loop=0)


def write_frames(frames: Iterable[Pixels], folder: Path) -> None:
    """frame-00000.png and so on, into a folder that is there."""
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / FRAME_NAMES.replace("*", f"{index:05d}"))
