"""Decide whether a bundle folder may be trusted, before anything is allocated or any engine is opened."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .consistency import first_problem
from .errors import BundleError
from .initializers import check_initializers
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, VERSION, FileEntry, Manifest
from .remembered import is_remembered, remember
from .tensors import read_header
from .versions import parse_manifest

_SMALL_FILE_BYTES = 64 << 20  # files up to this size are hashed at every open, larger ones and the weights once
_MAX_TABLES_BYTES = 1 << 30  # tables are read whole
_MAX_TOKENIZER_BYTES = 64 << 20  # so is the tokenizer
_GRAPH_BACKENDS = frozenset({"ort", "openvino"})  # whose programs are ONNX graphs
_REBUILD = "copy the bundle again or rebuild it with `soda-export build`"


@contextmanager
def refusing_unreadable(folder: Path) -> Iterator[None]:
    """Turn an error of the file system into a BundleError."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"{error.filename or folder}: cannot be read ({error.strerror}); {_REBUILD}") from None


def open_manifest(folder: Path) -> Manifest:
    """Read and check manifest.json: schema, names, and every number against every other."""
    path = folder / MANIFEST_NAME
    _require_regular_file(path, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(path.read_bytes(), str(path))
    problem = first_problem(manifest)
    if problem:
        raise BundleError(f"{path}: {problem}; {_REBUILD}")
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Sizes of all files, the header of the weights, and hashes: small files at every open, others once per file."""
    for name, entry in manifest.files.items():
        _require_regular_file(folder / name, entry.bytes)
    for name, limit in _read_whole(manifest):
        size = manifest.files[name].bytes
        if size > limit:
            raise BundleError(f"{folder / name}: {size!r:.40} bytes, at most {limit} are read; {_REBUILD}")
    for name in manifest.weights:
        read_header(folder / name)
    for name, entry in manifest.files.items():
        path = folder / name
        if path.stat().st_size != entry.bytes:
            raise BundleError(f"{path}: {path.stat().st_size} bytes, the manifest says {entry.bytes}; {_REBUILD}")
        if entry.bytes <= _SMALL_FILE_BYTES and name not in manifest.weights:
            _check_hash(path, entry)
        elif not is_remembered(path, entry):
            _check_hash(path, entry)
            remember(path, entry)


def _read_whole(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Files that are read into memory, with the greatest size of each."""
    yield manifest.tables, _MAX_TABLES_BYTES
    for tokenizer in manifest.tokenizers:
        yield tokenizer.file, _MAX_TOKENIZER_BYTES


def verify_hashes(folder: Path) -> Manifest:
    """Check the hash of every file, remembering nothing, and the names of weights; the thorough form of opening."""
    with refusing_unreadable(folder):
        manifest = open_manifest(folder)
        for name, entry in manifest.files.items():
            _require_regular_file(folder / name, entry.bytes)
            _check_hash(folder / name, entry)
        headers = {name: read_header(folder / name) for name in manifest.weights} | {"": {}}
        for program in (*manifest.prepare, *manifest.programs, *manifest.finish):
            is_known = program.weights or manifest.version == VERSION  # which file it is, old bundles may not say
            if manifest.backend in _GRAPH_BACKENDS and is_known:
                check_initializers(folder / program.file, program.weights, headers[program.weights])
        return manifest


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_regular_file(path: Path, max_bytes: int) -> None:
    try:
        info = path.lstat()
    except OSError:
        raise BundleError(f"{path}: missing; {_REBUILD}") from None
    if not stat.S_ISREG(info.st_mode):
        raise BundleError(f"{path}: not a regular file; {_REBUILD}")
    if info.st_size > max_bytes:
        raise BundleError(f"{path}: {info.st_size} bytes, at most {max_bytes} are expected; {_REBUILD}")


def _check_hash(path: Path, entry: FileEntry) -> None:
    if path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
        raise BundleError(f"{path}: its SHA-256 is not the manifest's, the file was changed or damaged; {_REBUILD}")
