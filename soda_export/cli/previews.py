"""`run --preview`: what the result would be after each step, one file a step in a folder."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from soda_runtime import Session
from soda_runtime.preview import NO_PREVIEWS
from soda_runtime.signature import PREVIEW_LEVELS

from ..errors import UsageError
from ..files import is_bundle, naming, write_whole
from ..report.images import save_images

_NAMES = "step-[0-9][0-9][0-9][0-9].*"


@dataclass(frozen=True)
class Previews:
    """A folder for previews. Of images, pictures; of anything else, the clean latents as .npy."""

    folder: Path

    def write(self, session: Session, step: int) -> None:
        """The preview after step `step`, the latest one."""
        content, is_image = io.BytesIO(), session.result_kind == "image"
        if is_image:
            save_images(session.preview_result(), content)
        else:
            np.save(content, session.preview())
        write_whole(self.folder / f"step-{step:04d}{'.png' if is_image else '.npy'}", content.getvalue())


def open_previews(folder: Path, session: Session) -> Previews:
    """Make the folder, or empty it of an earlier run's previews. Raises UsageError."""
    if PREVIEW_LEVELS not in session.bundle.tables:
        raise UsageError(f"--preview {folder}: {NO_PREVIEWS}")
    if is_bundle(folder.resolve()) or is_bundle(folder.resolve().parent):
        raise UsageError(f"--preview {folder}: lies inside a bundle, whose files are hashed; name a place outside")
    if folder.exists() and not (folder.is_dir() and all(path.match(_NAMES) for path in folder.iterdir())):
        raise UsageError(f"--preview {folder}: holds more than previews; name a new folder")
    with naming(folder):
        folder.mkdir(exist_ok=True)
        for earlier in folder.iterdir():
            earlier.unlink()
    return Previews(folder)
