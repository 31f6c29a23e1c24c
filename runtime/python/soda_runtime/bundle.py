"""Open a bundle: checked files, tables in memory, engines opened when first needed and shared by all sessions."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends import Engine, open_backend
from .checks import check_files, open_manifest, refusing_unreadable
from .errors import BundleError
from .manifest import Manifest
from .session import Session
from .signature import COEFFICIENTS, Signature, coefficient_count, prepare_signature, step_signature
from .tensors import read_tensors


class Bundle:
    """An opened bundle: thread-safe, shared by any number of sessions."""

    def __init__(self, folder: Path, manifest: Manifest, backend: str, device: str, threads: int) -> None:
        self.folder, self.manifest = folder, manifest
        with refusing_unreadable(folder):
            self.tables = _read_tables(folder, manifest)
        self.backend = open_backend(backend, device, threads)
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, backend: str = "", device: str = "cpu", threads: int = 0
    ) -> Bundle:
        """Check and open the bundle folder `path`.

        backend: default the one it was built for; `null` checks dispatch without computing. device: cpu or cuda.
        threads: of the engine library, 0 lets it choose. Raises BundleError or EngineError.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"{folder}: no such bundle folder; `soda-export build` makes one")
        with refusing_unreadable(folder):
            manifest = open_manifest(folder)
            check_files(folder, manifest)
        return cls(folder, manifest, backend or manifest.backend, device, threads)

    def session(self) -> Session:
        """A new session: its own cache arena and sampler state, for one thread at a time."""
        return Session(self)

    def engine(self, program: int) -> Engine:
        """The engine of program number `program`, opened at first use."""
        return self._open(self.manifest.programs[program].file, step_signature(self.manifest, program))

    def prepare_engine(self) -> tuple[Engine, Signature]:
        """The prepare program's engine, opened at first use."""
        shapes = {name: table.shape for name, table in self.tables.items()}
        signature = prepare_signature(self.manifest, shapes)
        return self._open(self.manifest.prepare.file, signature), signature

    def _open(self, file: str, signature: Signature) -> Engine:
        with self._lock:
            if file not in self._engines:
                self._engines[file] = self.backend.open_engine(self.folder / file, signature)
            return self._engines[file]


def _read_tables(folder: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    path = folder / manifest.tables
    tables = read_tensors(path)
    expected = {COEFFICIENTS, *manifest.prepare.tables}
    if tables.keys() != expected:
        raise BundleError(f"{path}: tables are {sorted(tables)}, the manifest wants {sorted(expected)}; rebuild")
    for name, table in tables.items():
        if table.dtype != np.float32 or table.ndim < 2 or table.shape[0] != manifest.sampler.steps:
            raise BundleError(f"{path}: table {name!r} is not float32 with {manifest.sampler.steps} rows; rebuild")
    width = coefficient_count(manifest.sampler.state_size)
    if tables[COEFFICIENTS].shape[1:] != (width,):
        found = tables[COEFFICIENTS].shape
        raise BundleError(f"{path}: coefficients have shape {found}, expected {width} columns; rebuild the bundle")
    return tables
