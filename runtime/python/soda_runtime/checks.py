"""Decide whether a bundle folder may be trusted, before anything is allocated or any engine is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from .consistency import first_problem
from .engine_index import INDEXED_BACKENDS, read_index
from .errors import BundleError
from .files import REBUILD, Stamp, refusing_unreadable, require_regular_file, stamp_of
from .initializers import check_initializers, external_locations
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, VERSION, FileEntry, Manifest
from .policy import POLICY_NAME, read_rules
from .remembered import is_remembered, remember
from .signature import program_files
from .sizes import Size, read_size_list, sized_policy, sized_problem
from .tensors import read_header
from .versions import parse_manifest

_SMALL_FILE_BYTES = 64 << 20  # files up to this size are hashed at every open, larger ones and the weights once
_MAX_TABLES_BYTES = 1 << 30  # tables are read whole
_MAX_TOKENIZER_BYTES = 64 << 20  # so is the tokenizer
_GRAPH_BACKENDS = frozenset({"ort", "openvino"})  # whose programs are ONNX graphs


def open_manifest(folder: Path, name: str = MANIFEST_NAME) -> Manifest:
    """Read and check a manifest: schema, names, and every number against every other."""
    path = folder / name
    require_regular_file(path, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(path.read_bytes(), str(path))
    problem = first_problem(manifest)
    if problem:
        raise BundleError(f"{path}: {problem}; {REBUILD}")
    return manifest


def open_sizes(folder: Path, manifest: Manifest) -> dict[Size, Manifest]:
    """The manifest of every size of a bundle whose files have been hashed, checked as manifest.json is, in the order of
    sizes.json; empty where there is none. Raises BundleError."""
    found: dict[Size, Manifest] = {}
    for entry in read_size_list(folder, manifest):
        sized = manifest
        if entry.manifest != MANIFEST_NAME:
            sized = open_manifest(folder, entry.manifest)
            problem = sized_problem(entry, sized, manifest)
            if problem:
                raise BundleError(f"{folder / entry.manifest}: {problem}; {REBUILD}")
            _check_sizes_read_whole(folder, sized)
            _check_named_files(folder, sized, sized_policy(entry.manifest))
        found[entry.height, entry.width] = sized
    return found


def check_files(folder: Path, manifest: Manifest) -> dict[str, Stamp]:
    """Sizes of all files, the header of the weights, hashes (small files at every open, others once per file), and that
    no program names a file besides. Returns the files' stamps."""
    for name, entry in manifest.files.items():
        require_regular_file(folder / name, entry.bytes)
    _check_sizes_read_whole(folder, manifest)
    for name in manifest.weights:
        read_header(folder / name)
    stamps = {}
    for name, entry in manifest.files.items():
        path = folder / name
        stamp = stamp_of(path)
        if stamp.bytes != entry.bytes:
            raise BundleError(f"{path}: {stamp.bytes} bytes, the manifest says {entry.bytes}; {REBUILD}")
        if entry.bytes <= _SMALL_FILE_BYTES and name not in manifest.weights:
            _check_hash(path, entry)
        elif not is_remembered(path, entry):
            _check_hash(path, entry)
            remember(path, entry, stamp)
        stamps[name] = stamp
    _check_named_files(folder, manifest)
    return stamps


def _check_sizes_read_whole(folder: Path, manifest: Manifest) -> None:
    for name, limit in _read_whole(manifest):
        size = manifest.files[name].bytes
        if size > limit:
            raise BundleError(f"{folder / name}: {size!r:.40} bytes, at most {limit} are read; {REBUILD}")


def _read_whole(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Files that are read into memory, with the greatest size of each."""
    yield manifest.tables, _MAX_TABLES_BYTES
    for tokenizer in manifest.tokenizers:
        yield tokenizer.file, _MAX_TOKENIZER_BYTES


def _check_named_files(folder: Path, manifest: Manifest, policy_name: str = POLICY_NAME) -> None:
    """Programs take weights from files that the manifest lists, so that these were hashed and lie in the folder."""
    named: list[tuple[str, str]] = []
    policy = read_rules(folder, manifest, policy_name)
    files = [file for file, _ in program_files(manifest)]
    files += [policy.signals] if policy else []
    if manifest.backend in _GRAPH_BACKENDS:
        named = [(file, location) for file in files for location in external_locations(folder / file)]
    elif manifest.backend in INDEXED_BACKENDS:
        index = read_index(folder)
        if index.weights != "baked":
            named = [(file, entry.weights_file) for file, entry in index.engines.items() if entry.weights_file]
    for program, file in named:
        if file not in manifest.files:
            what = f"takes weights from {file!r:.120}, which the manifest does not list"
            raise BundleError(f"{folder / program}: {what}; {REBUILD}")


def verify_hashes(folder: Path) -> Manifest:
    """Check the hash of every file, remembering nothing, and the names of weights; the thorough form of opening."""
    with refusing_unreadable(folder):
        manifest = open_manifest(folder)
        for name, entry in manifest.files.items():
            require_regular_file(folder / name, entry.bytes)
            _check_hash(folder / name, entry)
        _check_named_files(folder, manifest)
        headers = {name: read_header(folder / name) for name in manifest.weights} | {"": {}}
        for each in (manifest, *open_sizes(folder, manifest).values()):
            for file, weights in program_files(each):
                is_known = weights or each.version == VERSION  # which file it is, old bundles may not say
                if each.backend in _GRAPH_BACKENDS and is_known:
                    check_initializers(folder / file, weights, headers[weights])
        return manifest


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(path: Path, entry: FileEntry) -> None:
    if path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
        raise BundleError(f"{path}: its SHA-256 is not the manifest's, the file was changed or damaged; {REBUILD}")
