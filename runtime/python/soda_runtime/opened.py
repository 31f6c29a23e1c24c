"""Open a bundle: checked files, tables in memory, engines opened when first needed; what sessions are made of."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from .backends import DeviceBackend, DeviceOptions, Engine, open_backend
from .checks import check_files, open_manifest, open_sizes
from .engine_index import INDEX_NAME
from .engines import OpenEngines
from .errors import BundleError, EngineError, RequestError
from .files import CheckedFiles, Stamp, identity_of, refusing_unreadable, require_regular_file
from .guard import OpenedHere
from .lora import BundleLoras, LoraArgument
from .manifest import MANIFEST_NAME, VERSION, FinishProgram, Manifest, PrepareProgram, VideoFinish
from .policy import POLICY_NAME, Policy, read_policy, signals_signature
from .replaced import Replaced
from .signature import (
    PREVIEW_LEVELS,
    START_COEFFICIENTS,
    START_KNOWN,
    START_LEVELS,
    Signature,
    coefficient_table,
    finish_signature,
    prepare_signature,
    scalar_count,
    step_signature,
)
from .sizes import Size, judge_size, made_size, read_size_list, sized_policy
from .tensors import read_tensors
from .vocabulary import vocabulary_size

if TYPE_CHECKING:
    from .text import PromptTokenizer, Tokens


_MAX_TABLE_VALUE = 1e18  # so that a product of two is finite in float32
_ATTEMPTS = 10  # at opening a bundle that is being replaced meanwhile


@dataclass
class _Shared:
    """What all sizes of a bundle have in common. sizes: their manifests, the first one's first. policies: the names of
    their policies, where they have any. opened: those that were asked for."""

    files: CheckedFiles
    engines: OpenEngines
    sizes: dict[Size, Manifest]
    policies: dict[Size, str]
    opened: dict[Size, OpenedBundle] = field(default_factory=dict)
    tokenizers: dict[int, PromptTokenizer] = field(default_factory=dict)
    vocabularies: dict[int, int] = field(default_factory=dict)
    replaced: Replaced = field(default_factory=Replaced)
    loras: BundleLoras | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)


class OpenedBundle(OpenedHere):
    """An opened bundle without its sessions: thread-safe, shared by any number of them, of one process.

    Of a bundle of several sizes this is the first one; `at` gives the others.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, backend: str, device: str, threads: int, weights: str = "",
        options: DeviceOptions = DeviceOptions(), stamps: Mapping[str, Stamp] | None = None,
        lora: Sequence[LoraArgument] = (),
    ) -> None:  # fmt: skip
        """stamps: of the files when they were checked; default those that they have now."""
        super().__init__()
        with refusing_unreadable(folder):
            if stamps is None:
                stamps = {name: require_regular_file(folder / name, e.bytes) for name, e in manifest.files.items()}
            files = CheckedFiles(folder, stamps)
            self._fill(folder, manifest, files)
            sizes = open_sizes(folder, manifest)
            policies = {
                (entry.height, entry.width): sized_policy(entry.manifest) for entry in read_size_list(folder, manifest)
            }
            made = made_size(manifest)
            sizes = sizes or ({} if made is None else {made: manifest})
        self.backend = open_backend(backend, device, threads, weights, options)
        self._shared = _Shared(files, OpenEngines(folder, files), sizes, policies)
        self._shared.opened |= dict.fromkeys(list(sizes)[:1], self)
        if lora:
            self.set_loras(lora)

    def _fill(self, folder: Path, manifest: Manifest, files: CheckedFiles, policy: str = POLICY_NAME) -> None:
        """What a size has of its own. policy: the file that is its policy, where it has one."""
        self.folder, self.manifest = folder, manifest
        self.tables = _read_tables(folder, manifest)
        self.policy = read_policy(folder, manifest, policy)
        tables = [manifest.tables, *([policy, self.policy.policy.tables] if self.policy else [])]
        files.require_same(tables)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Height and width in pixels of what requests may ask for, the first being the default; empty for sounds, and
        for latents of a bundle of one size."""
        return tuple(self._shared.sizes)

    @property
    def size(self) -> Size | None:
        """The one of `sizes` that this handle is at; None where they are empty."""
        return next((size for size, opened in self._shared.opened.items() if opened is self), None)

    def at(self, size: Sequence[int] | None) -> Self:
        """The same bundle at one of its sizes, (height, width), which shares engines and weights with this one; None is
        this one. Raises RequestError for a size that is not there."""
        if size is None:
            return self
        self.require_here()
        shared, asked = self._shared, judge_size(size, self.sizes)
        with shared.lock:
            if asked not in shared.opened:
                made = object.__new__(type(self))
                OpenedHere.__init__(made)
                with refusing_unreadable(self.folder):
                    made._fill(self.folder, shared.sizes[asked], shared.files, shared.policies[asked])
                made._shared, made.backend = shared, self.backend
                shared.opened[asked] = made
            found = shared.opened[asked]
        assert isinstance(found, type(self))
        return found

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, backend: str = "", device: str = "auto", threads: int = 0,
        weights: str = "", options: DeviceOptions = DeviceOptions(), lora: Sequence[LoraArgument] = (),
        preload: bool = False,
    ) -> Self:  # fmt: skip
        """Check and open the bundle folder `path`. Engines are opened when a session first needs them, or, with
        `preload`, all at once, those of every size.

        backend: default the one it was built for; `null` checks dispatch without computing. device: cpu, cuda or
        cuda:N; auto is the backend's own. threads: of the engine library, 0 lets it choose. weights: `prepacked`, a
        copy an engine in the order that its kernels like, or `shared`, one for all engines, slower on the CPU; default
        what is faster. options: for CUDA. lora: LoRA files, alone or with a strength, that are added to the weights
        (docs/lora.md). Raises BundleError, EngineError or, for a LoRA that does not fit, RequestError.
        """
        for attempt in range(_ATTEMPTS):
            found = identity_of(path, MANIFEST_NAME)
            try:
                bundle = cls._open_once(path, backend, device, threads, weights, options, lora)
                if preload:
                    bundle.open_engines()
                return bundle
            except BundleError:
                if found == identity_of(path, MANIFEST_NAME):
                    raise
            time.sleep(0.01 * attempt)
        raise BundleError(f"{path}: was replaced {_ATTEMPTS} times while it was opened; open it again")

    @classmethod
    def _open_once(
        cls, path: str | os.PathLike[str], backend: str, device: str, threads: int, weights: str,
        options: DeviceOptions, lora: Sequence[LoraArgument],
    ) -> Self:  # fmt: skip
        if not Path(path).is_dir():
            raise BundleError(f"{path}: no such bundle folder; `soda-export build` makes one")
        folder = Path(os.path.realpath(path))  # whatever becomes of the working directory, or of links to the folder
        with refusing_unreadable(folder):
            manifest = open_manifest(folder)
            stamps = check_files(folder, manifest)
        return cls(folder, manifest, backend or manifest.backend, device, threads, weights, options, stamps, lora)

    def close(self) -> None:
        """Let go of all engines of all sizes, and free what they hold on a device; sessions must not be used any more.

        In a fork of the process that opened the bundle nothing happens.
        """
        if not self.is_here:
            return
        with self._shared.lock:
            self._shared.engines.clear()
            if isinstance(self.backend, DeviceBackend):
                self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lora_strengths(self) -> tuple[float, ...]:
        """Of the LoRA files that it has, in their order."""
        return tuple(strength for _, strength in self.loras)

    @property
    def loras(self) -> tuple[tuple[Path, float], ...]:
        """The LoRA files that it has, with their strengths."""
        loras = self._shared.loras
        return tuple(zip(loras.files, loras.strengths, strict=True)) if loras else ()

    @property
    def replaced(self) -> Replaced:
        """The weights that requests which begin now take in the place of the files' own."""
        return self._shared.replaced

    def set_loras(self, lora: Sequence[LoraArgument]) -> None:
        """Take these LoRA files in the place of those that the bundle has; () for none. As for `set_lora_strengths`,
        sessions take them from their next request on. Raises RequestError and EngineError before anything changes."""
        self.require_here()
        loras = BundleLoras(self.folder, self.manifest, lora) if lora else None
        self._shared.files.require_same(self.manifest.weights)
        self._replace(loras, loras.strengths if loras else ())

    def set_lora_strengths(self, strengths: Sequence[float]) -> None:
        """Give each LoRA file that the bundle has another strength, 0 for none of it.

        Sessions take it from their next request on: they open the engines anew whose weights have changed. A request in
        progress goes on with what it began with. Raises RequestError.
        """
        self.require_here()
        if self._shared.loras is None:
            raise RequestError("this bundle was opened without LoRA; open it with lora=[...]")
        self._shared.files.require_same(self.manifest.weights)
        self._replace(self._shared.loras, strengths)

    def _replace(self, loras: BundleLoras | None, strengths: Sequence[float]) -> None:
        shared = self._shared
        replaced = loras.replaced(strengths) if loras else Replaced()
        why = self.backend.why_fixed_weights(self.folder) if replaced.version else ""
        if why:
            raise EngineError(f"{self.folder}: no LoRA can be added: {why}")
        shared.loras, shared.replaced = loras, replaced
        shared.engines.keep(replaced.version)

    def open_engines(self) -> None:
        """Open every engine of every size now. Raises EngineError."""
        for size in self.sizes or (None,):
            sized = self.at(size)
            for program in range(len(sized.manifest.programs)):
                sized.engine(program)
            for each in sized.manifest.prepare:
                sized.prepare_engine(each)
            for finish in sized.manifest.finish:
                sized.finish_engine(finish)
                if isinstance(finish, VideoFinish) and finish.first:
                    sized.finish_engine(finish, first=True)
            if sized.policy is not None:
                sized.signals_engine(sized.policy.policy)

    def engine(self, program: int, replaced: Replaced | None = None) -> Engine:
        """The engine of program number `program`, opened at first use. replaced: weights that it takes in the place of
        the files' own; default those of now."""
        used = self.manifest.programs[program]
        return self._open(used.file, used.weights, step_signature(self.manifest, program), replaced=replaced)

    def prepare_engine(self, program: PrepareProgram, replaced: Replaced | None = None) -> Engine:
        """The engine of a prepare program: weights are not copied, since it runs once per request."""
        return self._open(program.file, program.weights, self.prepare_signature(program), True, replaced)

    def finish_engine(self, program: FinishProgram, first: bool = False) -> Engine:
        """The engine of the finish program. first: that of a video's first call, which has its own."""
        file = program.first[0].file if first and isinstance(program, VideoFinish) else program.file
        signature = finish_signature(self.manifest, program, first)
        return self._open(file, program.weights, signature, once=True, replaced=Replaced())

    def signals_engine(self, policy: Policy) -> Engine:
        """The engine of a policy's signals."""
        return self._open(policy.signals, "", signals_signature(self.manifest, policy), replaced=Replaced())

    def prepare_signature(self, program: PrepareProgram) -> Signature:
        """What a prepare program takes and gives, with the tables that the bundle has."""
        return prepare_signature(self.manifest, program, {name: table.shape for name, table in self.tables.items()})

    def tokenize(self, number: int, prompts: Sequence[str]) -> Tokens:
        """The tokens of prompts by tokenizer `number`."""
        entry, shared = self.manifest.tokenizers[number], self._shared
        path = self.folder / entry.file
        self.require_here()
        try:
            with shared.lock:
                if number not in shared.tokenizers:
                    from .text import PromptTokenizer

                    shared.files.require_same([entry.file])
                    shared.tokenizers[number] = PromptTokenizer(path, entry.max_tokens, entry.clean, entry.pad_id)
            return shared.tokenizers[number].encode(prompts)
        except BaseException as error:  # a tokenizer that names tokens it does not have makes the library panic
            if type(error).__name__ != "PanicException":
                raise
            raise BundleError(f"{path}: the tokenizers library fails on it; copy or build the bundle again") from None

    def vocabulary(self, number: int) -> int:
        """Token ids of tokenizer `number` are below this; 0 where its file does not say."""
        entry, shared = self.manifest.tokenizers[number], self._shared
        if number not in shared.vocabularies:
            shared.files.require_same([entry.file])
            with refusing_unreadable(self.folder):
                size = vocabulary_size(self.folder / entry.file)
            shared.vocabularies[number] = max(size, entry.pad_id + 1) if size else 0
        return shared.vocabularies[number]

    def require_weights(self) -> None:
        """No weights file, which engines may have mapped, was written to since it was checked. Raises BundleError."""
        self._shared.files.require_untouched(self.manifest.weights)

    def _open(
        self, file: str, weights: str, signature: Signature, once: bool = False, replaced: Replaced | None = None
    ) -> Engine:
        self.require_here()
        replaced = self.replaced if replaced is None else replaced
        read = [*self.manifest.weights, *(name for name in (INDEX_NAME,) if name in self.manifest.files)]
        return self._shared.engines.open(self.backend, file, weights, signature, read, replaced, once)


def _read_tables(folder: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    path = folder / manifest.tables
    tables = read_tensors(path)
    coefficients = {coefficient_table(manifest, accelerated) for accelerated in (True, False)}
    expected = coefficients.union(*(program.tables for program in manifest.prepare))
    expected |= _own_tables(tables, manifest)
    if tables.keys() != expected:
        odd = sorted(tables.keys() ^ expected)[0]
        raise BundleError(f"{path}: table {odd!r:.80} is not in both the file and the manifest; rebuild the bundle")
    for name, table in tables.items():
        if table.dtype != np.float32 or table.ndim < 2 or table.shape[0] != manifest.sampler.steps:
            wanted = f"float32 with {manifest.sampler.steps} rows"
            raise BundleError(f"{path}: table {name!r:.80} is not {wanted}; rebuild the bundle")
        if not (np.abs(table) <= _MAX_TABLE_VALUE).all():  # NaN compares false
            what = f"has a value that is not a number within {_MAX_TABLE_VALUE:g}"
            raise BundleError(f"{path}: table {name!r:.80} {what}; rebuild the bundle")
    width = scalar_count(manifest)
    for name in sorted(coefficients):
        if tables[name].shape[1:] != (width,):
            found = f"{name} have shape {tables[name].shape}"
            raise BundleError(f"{path}: {found}, expected {width} columns; rebuild the bundle")
    for name in sorted(_own_tables(tables, manifest)):
        shape = tables[name].shape
        fits = {
            PREVIEW_LEVELS: shape[1:] == (2,), START_LEVELS: shape[1:] == (3,),
            START_KNOWN: shape[1:] == (2,) and manifest.sampler.state_size > 2,
            START_COEFFICIENTS: len(shape) == 3 and shape[1] > 0 and shape[2] == width,
        }[name]  # fmt: skip
        if not fits:
            raise BundleError(f"{path}: {name} has shape {shape}, which is none of such a table; rebuild the bundle")
    return tables


def _own_tables(tables: Mapping[str, Any], manifest: Manifest) -> set[str]:
    """Those for previews and for requests that start from latents, which a bundle may have."""
    if manifest.version != VERSION:
        return set()
    starts = {START_LEVELS, START_COEFFICIENTS, START_KNOWN} if START_LEVELS in tables else set()
    return (starts | {PREVIEW_LEVELS}) & tables.keys()
