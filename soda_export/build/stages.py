"""Keep what each stage made in a folder named after its inputs, so that a killed build loses one stage at most.

A stage's folder is `<root>/<stage>-<key>`, key = hash of everything its output depends on. It is filled under a
temporary name and renamed when complete: a folder that exists is whole. Equal inputs, in any build, share it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .. import __version__

_LIBRARIES = (
    "diffusers", "numpy", "onnx", "onnx-ir", "onnxscript", "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip
log = logging.getLogger(__name__)


class StageStore:
    """The folder of stage outputs, usually `engines/.work`. It may be deleted at any time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reused: list[str] = []
        self._sweep()

    def produce(self, stage: str, inputs: dict[str, Any], make: Callable[[Path], object]) -> Path:
        """The folder of stage `stage` for `inputs`; `make(folder)` fills it unless it is there already."""
        final = self.root / f"{stage}-{self.key(inputs)}"
        if final.is_dir():
            self.reused.append(stage)
            log.info("%s: taken from %s", stage, final)
            return final
        temporary = self.root / f"tmp-{os.getpid()}-{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            make(temporary)
            try:
                temporary.rename(final)
            except OSError:
                if not final.is_dir():  # another build made the same stage first: its output is as good
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def resumable(self, stage: str, inputs: dict[str, Any]) -> Path:
        """A folder for a stage's unfinished work, kept until `discard`."""
        folder = self.root / f"partial-{stage}-{self.key(inputs)}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @staticmethod
    def discard(folder: Path) -> None:
        """Remove a folder that is no longer needed."""
        shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def key(inputs: dict[str, Any]) -> str:
        """16 hex digits of everything a stage depends on, the versions of the libraries that make it included."""
        versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
        text = msgspec.json.encode({"version": __version__, "libraries": versions, **inputs}, order="sorted")
        return hashlib.sha256(text).hexdigest()[:16]

    def _sweep(self) -> None:
        """Remove temporary folders of builds that are no longer running."""
        for pattern in ("tmp-*", "bundle-*", "replaced-*"):
            for folder in self.root.glob(pattern):
                process = folder.name.split("-")[1]
                if process.isdecimal() and not _is_running(int(process)):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
