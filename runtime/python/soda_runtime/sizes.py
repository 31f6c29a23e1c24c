"""sizes.json: the sizes of a bundle that has several, each with a manifest of its own (BUNDLE.md, section 16)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import BundleError, RequestError
from .files import REBUILD
from .manifest import MANIFEST_NAME, AudioFinish, HintPort, Manifest, RequestPort
from .manifest import VERSION as FORMAT_VERSION
from .policy import POLICY_NAME
from .side_files import read_side_file
from .strict_json import encode

SIZES_NAME, FORMAT, VERSION = "sizes.json", "soda-sizes", 1
MOST_SIZES, _MOST_PIXELS, _MAX_BYTES = 64, 1 << 16, 1 << 20
Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class SizeEntry:
    """A size in pixels, and the file that is its manifest."""

    height: int
    width: int
    manifest: str


@dataclass(frozen=True)
class SizeList:
    """sizes.json, whole. The first size is that of manifest.json."""

    format: str
    version: int
    sizes: tuple[SizeEntry, ...]


def sizes_text(entries: Sequence[SizeEntry]) -> str:
    """Canonical text: two spaces of indent, keys in schema order."""
    return json.dumps(encode(SizeList(FORMAT, VERSION, tuple(entries))), indent=2) + "\n"


def read_size_list(folder: Path, manifest: Manifest) -> tuple[SizeEntry, ...]:
    """sizes.json of a bundle that lists it, held against its manifest; empty where it does not. Raises BundleError."""
    if manifest.version != FORMAT_VERSION or SIZES_NAME not in manifest.files:
        return ()
    path = folder / SIZES_NAME
    entries = read_side_file(path, SizeList, FORMAT, VERSION, _MAX_BYTES).sizes
    problem = _list_problem(entries, manifest)
    if problem:
        raise BundleError(f"{path}: {problem}; {REBUILD}")
    return entries


def sized_policy(manifest: str) -> str:
    """The name of the policy of a size, by that of its manifest: `manifest-512x768.json` has `policy-512x768.json`."""
    return f"policy{manifest.removeprefix('manifest')}"


def _list_problem(entries: Sequence[SizeEntry], manifest: Manifest) -> str | None:
    if not 1 <= len(entries) <= MOST_SIZES:
        return f"{len(entries)} sizes, expected 1 .. {MOST_SIZES}"
    for entry in entries:
        if not (1 <= entry.height <= _MOST_PIXELS and 1 <= entry.width <= _MOST_PIXELS):
            return f"size {entry.height!r:.40} x {entry.width!r:.40} is outside 1 .. {_MOST_PIXELS}"
    if len({(entry.height, entry.width) for entry in entries}) != len(entries):
        return "a size stands twice"
    files = [entry.manifest for entry in entries]
    if files[0] != MANIFEST_NAME:
        return f"the first manifest is {files[0]!r:.80}, expected {MANIFEST_NAME!r}"
    if len({*files, SIZES_NAME}) != len(files) + 1:
        return "a manifest stands twice"
    for file in files[1:]:
        if file not in manifest.files:
            return f"file {file!r:.80} is used but not listed in the manifest"
    return _size_problem(entries[0], manifest)


def sized_problem(entry: SizeEntry, sized: Manifest, first: Manifest) -> str | None:
    """Why this is no manifest of another size of `first`, the bundle's own, or None."""
    if sized.version != FORMAT_VERSION:
        return f"version {sized.version}, expected {FORMAT_VERSION}"
    for name, file in sized.files.items():
        if name in (SIZES_NAME, POLICY_NAME) or first.files.get(name) != file:
            return f"files[{name!r:.80}] is not as {MANIFEST_NAME} has it"
    if (sized_policy(entry.manifest) in sized.files) != (POLICY_NAME in first.files):
        return "of the sizes some have a policy and others have none"
    for what, own, expected in zip(_COMMON, _common(sized), _common(first), strict=True):
        if own != expected:
            return f"{what}: is not that of {MANIFEST_NAME}, so this is no size of the same model"
    return _size_problem(entry, sized)


_COMMON = (
    "backend", "precision", "model", "ports", "tokenizers", "sampler", "rows_per_sample", "guidance", "weights",
    "finish",
)  # fmt: skip


def _common(manifest: Manifest) -> tuple[object, ...]:
    """What is the same at every size."""
    sampler = manifest.sampler
    return (
        manifest.backend, manifest.precision, replace(manifest.model, latent_shape=()),
        tuple(_shapeless(port) for port in manifest.ports), manifest.tokenizers,
        (sampler.name, sampler.steps, sampler.stochastic), manifest.rows_per_sample, manifest.guidance,
        manifest.weights, (manifest.result_kind, len(manifest.finish)),
    )  # fmt: skip


def _shapeless(port: RequestPort) -> RequestPort:
    """Hints are as large as the image."""
    return replace(port, shape=()) if isinstance(port, HintPort) else port


def _size_problem(entry: SizeEntry, manifest: Manifest) -> str | None:
    made = made_size(manifest)
    if manifest.finish and made != (entry.height, entry.width):
        return f"{entry.manifest} does not make {entry.height}x{entry.width}"
    return None


def made_size(manifest: Manifest) -> Size | None:
    """Of what a bundle makes; None where that is sound, or latents."""
    for finish in manifest.finish:
        return None if isinstance(finish, AudioFinish) else (finish.shape[-2], finish.shape[-1])
    height, width = (manifest.model.latent_shape[-2:]) if manifest.model.output == "pixels" else (0, 0)
    return (height, width) if height else None


def judge_size(size: object, sizes: Sequence[Size]) -> Size:
    """The size that a request asks for. Raises RequestError where it is not among `sizes`."""
    asked = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(asked) != 2 or not all(type(side) is int for side in asked):
        raise RequestError(f"size={size!r:.80}: give height and width in pixels, e.g. (512, 768)")
    if asked not in sizes:
        known = ", ".join(f"{height}x{width}" for height, width in sizes) or "one size, which it does not name"
        raise RequestError(f"size {asked[0]}x{asked[1]}: this bundle has {known}")
    return asked
