"""Engines of a bundle's folder: each is opened once, at first use, from the files that were checked."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from .backends import Backend, Engine
from .errors import EngineError
from .files import CheckedFiles
from .replaced import HostTensor, Replaced
from .signature import Signature


class OpenEngines:
    """Thread-safe. An engine that several sizes share is opened once: for each of them it has the same signature."""

    def __init__(self, folder: Path, files: CheckedFiles) -> None:
        self._folder, self._files = folder, files
        self._engines: dict[tuple[str, int], list[tuple[Signature, Engine]]] = {}  # by file and version of its weights
        self._version = 0
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}

    def open(
        self, backend: Backend, file: str, weights: str, signature: Signature, read: Sequence[str],
        replaced: Replaced, once: bool = False,
    ) -> Engine:  # fmt: skip
        """The engine of a program file, whose inputs and outputs are those of `signature`. weights: its weights file.
        read: further files that opening may read. replaced: weights that it takes in the place of the files' own. once:
        it runs once a request, so its weights are not copied.

        Raises EngineError, and BundleError where a file was replaced.
        """
        tensors = replaced.of_program(weights)
        key = file, replaced.version if tensors else 0
        with self._lock:
            opening = self._opening.setdefault(file, threading.Lock())
        with opening:
            for known, engine in self._engines.get(key, ()):
                if known == signature:
                    return engine
            engine = self._open_checked(backend, file, weights, signature, [file, *read], tensors, once)
            with self._lock:
                if key[1] in (0, self._version):  # else it is of a request that began before
                    self._engines.setdefault(key, []).append((signature, engine))
            return engine

    @property
    def opened(self) -> list[Engine]:
        """All of them."""
        return [engine for found in self._engines.values() for _, engine in found]

    def keep(self, version: int) -> None:
        """Let go of engines whose weights are replaced otherwise than by this version."""
        with self._lock:
            self._version = version
            self._engines = {key: found for key, found in self._engines.items() if key[1] in (0, version)}

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._engines.clear()

    def _open_checked(
        self, backend: Backend, file: str, weights: str, signature: Signature, used: list[str],
        tensors: Mapping[str, HostTensor], once: bool,
    ) -> Engine:  # fmt: skip
        """Open an engine from the files that were checked: libraries open them by path, once more."""
        self._files.require_same(used)
        try:
            return backend.open_engine(self._folder / file, signature, once, weights, tensors)
        except EngineError as error:
            link = self._files.link_among(used)
            if link is None:
                raise
            raise EngineError(
                f"{error}; {link} is a symbolic link, through which an engine library may read no weights: "
                f"copy the bundle with `cp -rL`"
            ) from None
        finally:
            self._files.require_same(used)
