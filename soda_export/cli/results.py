"""Where `run` writes what: the file that --out names, checked before anything is computed, by what the bundle makes."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from soda_runtime import Session
from soda_runtime.manifest import AudioFinish, VideoFinish
from soda_runtime.scratch import owner

from ..errors import UsageError
from ..files import check_out, is_bundle, naming, write_whole
from ..report.clips import FRAME_NAMES, Pixels, frames_of, require_mp4, write_frames, write_gif, write_mp4
from ..report.images import save_images
from ..report.sounds import save_sound

Progress = Callable[[str, int, int], None]
FRAMES = "frames"
_FILES = {
    ".png": "a .png picture", ".npy": "a .npy array", ".mp4": "a .mp4 video", ".gif": "a .gif video",
    ".wav": "a .wav sound",
}  # fmt: skip
_MADE = {".png": "image", ".mp4": "video", ".gif": "video", FRAMES: "video", ".wav": "audio"}
USUAL = {"image": "out.png", "video": "out.mp4", "audio": "out.wav", "": "out.npy"}
_ADVICE = {
    "image": "name a .png", "video": "name a .mp4, a .gif or a folder (frames/)", "audio": "name a .wav",
    "": "the bundle has no decoder",
}  # fmt: skip


@dataclass(frozen=True)
class Out:
    """What --out names. form: its suffix, or FRAMES for a folder of pictures."""

    given: str
    path: Path
    form: str


def check_result(out: str | None, session: Session) -> Out:
    """The place for what a bundle makes; None for the usual one here. Raises UsageError."""
    out = USUAL[session.result_kind] if out is None else out
    path = Path(out)
    form = FRAMES if out.endswith("/") else path.suffix
    advice = f"{_ADVICE[session.result_kind]}, or a .npy file for the latents"
    if form not in (*_FILES, FRAMES):
        raise UsageError(f"--out {out}: {advice}")
    if form != ".npy" and _MADE[form] != session.result_kind:
        made = session.result_kind or "latents"
        raise UsageError(f"--out {out}: this bundle makes {'an ' if made == 'image' else ''}{made}; {advice}")
    if form == ".mp4":
        require_mp4(out)
    if form == FRAMES:
        _check_folder(path)
    else:
        check_out(path, _FILES[form])
    return Out(out, path, form)


def write_result(out: Out, session: Session, progress: Progress) -> None:
    """Write what the request that has just been played made; a video as it is decoded."""
    finish, content = next(iter(session.bundle.manifest.finish), None), io.BytesIO()
    if out.form == ".npy":
        np.save(content, session.latents())
    elif out.form == ".png":
        save_images(session.images(), content)
    elif isinstance(finish, AudioFinish):
        _write_sounds(out.path, session.result(), finish.sample_rate)
        return
    elif isinstance(finish, VideoFinish):
        frames = frames_of(_counted(session.chunks(), finish.shape[0], progress))
        if out.form == FRAMES:
            _write_folder(out.path, frames)
            return
        if out.form == ".mp4":
            write_mp4(frames, finish.frames_per_second, content)
        else:
            write_gif(frames, finish.shape[0], finish.frames_per_second, content)
    write_whole(out.path, content.getvalue())


def _counted(
    chunks: Iterable[NDArray[np.float32]], total: int, progress: Progress
) -> Iterator[NDArray[np.float32]]:
    done = 0
    for chunk in chunks:
        done += chunk.shape[1]
        progress("frames", done, total)
        yield chunk


def _write_sounds(path: Path, sounds: NDArray[np.float32], sample_rate: int) -> None:
    """One sample as `path`, several as out-0.wav, out-1.wav and so on."""
    for number, sound in enumerate(sounds):
        content = io.BytesIO()
        save_sound(sound, sample_rate, content)
        own = path if len(sounds) == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        write_whole(own, content.getvalue())


def _check_folder(folder: Path) -> None:
    """Of frames: not there, empty, or with frames that an earlier run wrote."""
    if is_bundle(folder.resolve()) or is_bundle(folder.resolve().parent):
        raise UsageError(f"--out {folder}/: lies inside a bundle, whose files are hashed; name a place outside")
    if not folder.parent.is_dir():
        raise UsageError(f"--out {folder}/: the folder {folder.parent} does not exist")
    if folder.exists() and not (folder.is_dir() and all(path.match(FRAME_NAMES) for path in folder.iterdir())):
        raise UsageError(f"--out {folder}/: holds more than frames of a clip; name a new folder")


def _write_folder(folder: Path, frames: Iterator[Pixels]) -> None:
    """All frames or none: they are written beside it and put in its place."""
    scratch = folder.resolve().with_name(f".{folder.name}.{owner()}.tmp")
    with naming(folder):
        scratch.mkdir()
        try:
            write_frames(frames, scratch)
            if folder.exists():
                shutil.rmtree(folder)
            scratch.rename(folder.resolve())
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
