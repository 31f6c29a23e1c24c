"""Keep what each stage made in a folder named after its inputs, so that a killed build loses one stage at most.

A stage's folder is `<root>/<stage>-<key>`, key = hash of everything its output depends on. It is filled under a
temporary name and renamed when complete. A list of its files with their sizes and hashes lies in it; a folder that is
not as that list says is made again. Equal inputs, in any build on any host, share it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from soda_runtime.scratch import is_abandoned, owner

from .. import __version__
from ..files import naming

SHELF = Path("engines")
"""Where bundles and their stages go unless told otherwise."""
_LIBRARIES = ("diffusers", "numpy", "onnx", "onnx-ir", "onnxscript", "safetensors", "torch")
_FILES_NAME = ".files.json"
_HASHED_BYTES = 16 << 20  # of larger files the size alone is checked: hashing a model at every build takes minutes
log = logging.getLogger(__name__)


class StageStore:
    """The folder of stage outputs, usually `engines/.work`. It may be deleted at any time, and shared by hosts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reused: list[str] = []
        self._sweep()

    def produce(self, stage: str, inputs: dict[str, Any], make: Callable[[Path], object]) -> Path:
        """The folder of stage `stage` for `inputs`; `make(folder)` fills it unless it is there already, and whole.

        Raises UsageError where the store cannot be written: full, or read-only.
        """
        final = self.root / f"{stage}-{self.key(inputs)}"
        if final.is_dir():
            damage = _damage(final)
            if not damage:
                self.reused.append(stage)
                log.info("%s: taken from %s", stage, final)
                return final
            log.warning("%s: %s, so it is made again", stage, damage)
            self._remove(final)
        temporary = self.temporary("tmp", final.name)
        with naming(self.root):
            try:
                temporary.mkdir(parents=True)
                make(temporary)
                _list_files(temporary)
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
        with naming(self.root):
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

    def temporary(self, kind: str, name: str) -> Path:
        """A path that no other process, here or on another host, uses. It is swept once this process is gone."""
        return self.root / f"{kind}-{owner()}-{name}"

    def _remove(self, folder: Path) -> None:
        """Out of the way in one call; another build may be doing the same."""
        aside = self.temporary("tmp", folder.name)
        try:
            folder.rename(aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove temporary folders of builds that are no longer running."""
        for kind in ("tmp", "bundle"):
            for folder in self.root.glob(f"{kind}-*"):
                if is_abandoned(folder, folder.name.partition("-")[2]):
                    shutil.rmtree(folder, ignore_errors=True)


def _list_files(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix(): _entry(path) for path in folder.rglob("*") if path.is_file()}
    (folder / _FILES_NAME).write_text(json.dumps(files, sort_keys=True))


def _damage(folder: Path) -> str:
    """What is not as it was when the stage was done, "" where all is."""
    try:
        files: dict[str, list[Any]] = json.loads((folder / _FILES_NAME).read_bytes())
        for name, entry in files.items():
            if not (folder / name).is_file():
                return f"{folder / name} is missing"
            if _entry(folder / name) != entry:
                return f"{folder / name} was changed"
    except (OSError, ValueError, AttributeError):
        return f"{folder / _FILES_NAME} cannot be read"
    return ""


def _entry(path: Path) -> list[Any]:
    """[size, SHA-256 of a small file]"""
    size = path.stat().st_size
    return [size, hashlib.sha256(path.read_bytes()).hexdigest() if size <= _HASHED_BYTES else ""]
