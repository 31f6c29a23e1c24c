"""Play a bundle twice with equal noise, everything computed and accelerated, and show what differs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from soda_runtime import Session
from soda_runtime.policy import FULL

from ..images import to_pixels
from .heat import png_url
from .page import Chart, Sample, Samples, Table
from .svg import drawing, element

_MOST_SIDE = 256  # pixels of a picture on the page
_TINY = 96  # below, pixels are shown as squares
_GAIN = 4  # differences are shown times this
_QUALITY = 85
Picture = NDArray[np.float32]
"""[height, width, 1 or 3] in 0..1"""


@dataclass(frozen=True)
class Played:
    """What the samples gave. rmse, relative: of all latents together, as `bench` has them."""

    samples: Samples
    decisions: Chart | None
    rmse: float
    relative: float


def play_samples(
    session: Session, requests: Sequence[tuple[str, dict[str, Any]]], seed: int, done: Callable[[int], None]
) -> Played:
    """requests: title and arguments of each sample, which gets the seed `seed`, `seed` + 1 and so on.

    Raises RequestError where the bundle does not take them, or makes no pictures.
    """
    shown, errors, squares, decided = [], [], [], []
    for number, (title, request) in enumerate(requests):
        fast = session.generate(**request, seed=seed + number)
        adaptive = session.playback.play == "adaptive"
        if adaptive:
            decided.append((title, session.decisions[:, 0].tolist()))
        fast_picture = _picture(session)
        full = session.generate(**request, seed=seed + number, accelerated=False)
        full_picture = _picture(session)
        errors.append(float(np.mean((fast.astype(np.float64) - full) ** 2)))
        squares.append(float(np.mean(full.astype(np.float64) ** 2)))
        shown.append(_sample(title, full_picture, fast_picture, errors[-1] ** 0.5))
        done(number + 1)
    policy = session.bundle.policy
    names = [action.name for action in policy.policy.actions] if policy else []
    tiny = max(_picture(session).shape[:2]) <= _TINY
    rmse = float(np.mean(errors)) ** 0.5
    text = (
        f"Each sample twice from the same noise, seeds {seed} to {seed + len(shown) - 1}. Differences are shown "
        f"{_GAIN} times as large as they are."
    )
    decisions = _draw_decisions(decided, names) if decided else None
    return Played(Samples(tuple(shown), text, tiny), decisions, rmse, rmse / float(np.mean(squares)) ** 0.5)


def _picture(session: Session) -> Picture:
    """Of the request that has been played; of a video its middle frame."""
    if session.num_chunks:
        frames = np.concatenate([chunk[0] for chunk in session.chunks()])
        middle: Picture = frames[len(frames) // 2]
        return middle
    picture: Picture = session.images()[0]
    return picture


def _sample(title: str, full: Picture, fast: Picture, rmse: float) -> Sample:
    error = float(np.mean((full.astype(np.float64) - fast) ** 2))
    psnr = f"{-10 * np.log10(error):.1f} dB" if error > 0 else "no difference"
    difference = np.clip(_GAIN * np.abs(full - fast).mean(axis=2, keepdims=True), 0.0, 1.0)
    words = f"PSNR {psnr}, RMSE of the latents {rmse:.4f}"
    return Sample(title, _url(full), _url(fast), _url(difference.astype(np.float32)), words)


def _url(picture: Picture) -> str:
    image = Image.fromarray(to_pixels(picture[None])[0])
    content = io.BytesIO()
    if max(image.size) <= _TINY:
        image.save(content, "PNG")
        return png_url(content.getvalue())
    image.thumbnail((_MOST_SIDE, _MOST_SIDE))
    image.save(content, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _draw_decisions(decided: Sequence[tuple[str, list[int]]], names: Sequence[str]) -> Chart:
    """A row a sample, a column a step."""
    left, top, row, steps = 150, 22, 18, len(decided[0][1])
    wide = min(26, max(7, 900 // steps))
    children: list[Markup] = []
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000, 10**9) if n * wide >= 24)
    children += [
        element("text", str(t), x=left + (t + 0.5) * wide, y=14, class_="tick") for t in range(0, steps, every)
    ]
    for line, (title, actions) in enumerate(decided):
        short = title if len(title) <= 22 else f"{title[:21]}…"
        children.append(element("text", short, x=left - 6, y=top + line * row + 12, class_="number"))
        for step, action in enumerate(actions):
            what = "everything computed" if action == FULL else f"skipped ({names[action]})"
            children.append(element(
                "rect", x=left + step * wide, y=top + line * row, width=wide - 1, height=row - 2,
                class_="c" if action == FULL else "s", data_words=f"Step {step}, {title}: {what}.",
            ))  # fmt: skip
    calls = [actions.count(FULL) for _, actions in decided]
    table = Table(
        ("sample", "model calls", "steps computed"),
        tuple(
            (title, str(count), " ".join(str(t) for t, action in enumerate(actions) if action == FULL))
            for (title, actions), count in zip(decided, calls, strict=True)
        ),
    )
    spread = str(calls[0]) if len(set(calls)) == 1 else f"{min(calls)} to {max(calls)}"
    text = f"Each sample decides for itself which steps call the model: {spread} of {steps} do here."
    picture = drawing(children, left + wide * steps + 2, top + row * len(decided) + 4, text)
    return Chart(picture, table, (("c", "everything computed"), ("s", "the model is not called")), text)
