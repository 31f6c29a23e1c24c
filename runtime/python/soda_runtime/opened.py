"""Open a bundle: checked files, tables in memory, engines opened when first needed; what sessions are made of."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from .backends import DeviceBackend, DeviceOptions, Engine, open_backend
from .checks import check_files, open_manifest, refusing_unreadable
from .errors import BundleError
from .manifest import FinishProgram, Manifest, PrepareProgram
from .signature import (
    Signature,
    coefficient_table,
    finish_signature,
    prepare_signature,
    scalar_count,
    step_signature,
)
from .tensors import read_tensors

if TYPE_CHECKING:
    from .text import PromptTokenizer


class OpenedBundle:
    """An opened bundle without its sessions: thread-safe, shared by any number of them."""

    def __init__(
        self, folder: Path, manifest: Manifest, backend: str, device: str, threads: int, weights: str = "",
        options: DeviceOptions = DeviceOptions(),
    ) -> None:  # fmt: skip
        self.folder, self.manifest = folder, manifest
        with refusing_unreadable(folder):
            self.tables = _read_tables(folder, manifest)
        self.backend = open_backend(backend, device, threads, weights, options)
        self._engines: dict[str, Engine] = {}
        self._tokenizers: dict[int, PromptTokenizer] = {}
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, backend: str = "", device: str = "auto", threads: int = 0,
        weights: str = "", options: DeviceOptions = DeviceOptions(),
    ) -> Self:  # fmt: skip
        """Check and open the bundle folder `path`. Engines are opened when a session first needs them.

        backend: default the one it was built for; `null` checks dispatch without computing. device: cpu, cuda or
        cuda:N; auto is the backend's own. threads: of the engine library, 0 lets it choose. weights: `prepacked`, a
        copy an engine in the order that its kernels like, or `shared`, one for all engines, slower on the CPU; default
        what is faster. options: for CUDA. Raises BundleError or EngineError.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"{folder}: no such bundle folder; `soda-export build` makes one")
        with refusing_unreadable(folder):
            manifest = open_manifest(folder)
            check_files(folder, manifest)
        return cls(folder, manifest, backend or manifest.backend, device, threads, weights, options)

    def close(self) -> None:
        """Let go of all engines, and free what they hold on a device; sessions must not be used any more."""
        with self._lock:
            self._engines.clear()
            if isinstance(self.backend, DeviceBackend):
                self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def engine(self, program: int) -> Engine:
        """The engine of program number `program`, opened at first use."""
        used = self.manifest.programs[program]
        return self._open(used.file, used.weights, step_signature(self.manifest, program))

    def prepare_engine(self, program: PrepareProgram) -> Engine:
        """The engine of a prepare program: weights are not copied, since it runs once per request."""
        return self._open(program.file, program.weights, self.prepare_signature(program), once=True)

    def finish_engine(self, program: FinishProgram) -> Engine:
        """The engine of the finish program."""
        return self._open(program.file, program.weights, finish_signature(self.manifest, program), once=True)

    def prepare_signature(self, program: PrepareProgram) -> Signature:
        """What a prepare program takes and gives, with the tables that the bundle has."""
        return prepare_signature(self.manifest, program, {name: table.shape for name, table in self.tables.items()})

    def tokenize(self, number: int, prompts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Prompts to token ids and mask of tokenizer `number`, int64 [n, max_tokens] each."""
        entry = self.manifest.tokenizers[number]
        path = self.folder / entry.file
        try:
            with self._lock:
                if number not in self._tokenizers:
                    from .text import PromptTokenizer

                    self._tokenizers[number] = PromptTokenizer(path, entry.max_tokens, entry.clean, entry.pad_id)
            return self._tokenizers[number](prompts)
        except BaseException as error:  # a tokenizer that names tokens it does not have makes the library panic
            if type(error).__name__ != "PanicException":
                raise
            raise BundleError(f"{path}: the tokenizers library fails on it; copy or build the bundle again") from None

    def _open(self, file: str, weights: str, signature: Signature, once: bool = False) -> Engine:
        with self._lock:
            opening = self._opening.setdefault(file, threading.Lock())
        with opening:
            if file not in self._engines:
                self._engines[file] = self.backend.open_engine(self.folder / file, signature, once, weights)
            return self._engines[file]


def _read_tables(folder: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    path = folder / manifest.tables
    tables = read_tensors(path)
    coefficients = {coefficient_table(manifest, accelerated) for accelerated in (True, False)}
    expected = coefficients.union(*(program.tables for program in manifest.prepare))
    if tables.keys() != expected:
        odd = sorted(tables.keys() ^ expected)[0]
        raise BundleError(f"{path}: table {odd!r:.80} is not in both the file and the manifest; rebuild the bundle")
    for name, table in tables.items():
        if table.dtype != np.float32 or table.ndim < 2 or table.shape[0] != manifest.sampler.steps:
            wanted = f"float32 with {manifest.sampler.steps} rows"
            raise BundleError(f"{path}: table {name!r:.80} is not {wanted}; rebuild the bundle")
    width = scalar_count(manifest)
    for name in sorted(coefficients):
        if tables[name].shape[1:] != (width,):
            found = f"{name} have shape {tables[name].shape}"
            raise BundleError(f"{path}: {found}, expected {width} columns; rebuild the bundle")
    return tables
