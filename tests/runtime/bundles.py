"""Golden bundles, copies of them that a test may damage, and the bytes to damage them with."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from soda_runtime import Embeds, Noise
from soda_runtime.initializers import external_initializers
from soda_runtime.manifest import VERSION
from soda_runtime.philox import INITIAL_STREAM, latent_noise
from soda_runtime.strict_json import encode
from soda_runtime.tensors import read_tensors
from soda_runtime.versions import parse_manifest

GOLDEN = Path(__file__).parents[1] / "golden" / "v2"
GOLDEN_TEXT = GOLDEN.with_name("v2-text")
GOLDEN_V1 = GOLDEN.with_name("v1")
GOLDEN_V3, GOLDEN_V3_TEXT = GOLDEN.with_name("v3"), GOLDEN.with_name("v3-text")
GOLDEN_V4, GOLDEN_V4_TEXT = GOLDEN.with_name("v4"), GOLDEN.with_name("v4-text")
GOLDEN_V5, GOLDEN_V5_TEXT, GOLDEN_V5_PORTS = (GOLDEN.with_name(name) for name in ("v5", "v5-text", "v5-ports"))
GOLDEN_V5_START, GOLDEN_V5_INPAINT = GOLDEN.with_name("v5-start"), GOLDEN.with_name("v5-inpaint")
GOLDEN_V5_SKIP = GOLDEN.with_name("v5-skip")
GOLDEN_V5_CHUNKS = GOLDEN.with_name("v5-chunks")
GOLDEN_V5_POLICY, GOLDEN_V5_SADA = GOLDEN.with_name("v5-policy"), GOLDEN.with_name("v5-sada")
GOLDEN_V5_SIZES = GOLDEN.with_name("v5-sizes")
GOLDENS = [
    GOLDEN_V1, GOLDEN, GOLDEN_TEXT, GOLDEN_V3, GOLDEN_V3_TEXT, GOLDEN_V4, GOLDEN_V4_TEXT, GOLDEN_V5, GOLDEN_V5_TEXT,
    GOLDEN_V5_START, GOLDEN_V5_INPAINT, GOLDEN_V5_SKIP, GOLDEN_V5_POLICY, GOLDEN_V5_SADA, GOLDEN_V5_SIZES,
]  # fmt: skip
"""Of models; GOLDEN_V5_PORTS and GOLDEN_V5_CHUNKS are made by hand."""

Json = dict[str, Any]


def golden_request(folder: Path) -> dict[str, Any]:
    """The stored request to a golden bundle, as arguments of `generate`."""
    with np.load(folder.with_name(folder.name + ".npz")) as stored:
        results = ("latents", "images", "video", "decisions")
        request = {name: stored[name].tolist() for name in stored if name.partition(".")[0] not in results}
    ports = {name.partition(".")[2]: request.pop(name) for name in list(request) if name.startswith("inputs.")}
    return request | ({"inputs": ports} if ports else {})


def golden_results(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The stored latents of a golden bundle's request, images where it has a decoder, decisions where it decides."""
    with np.load(folder.with_name(folder.name + ".npz")) as stored:
        return {name: stored[name] for name in ("latents", "images", "decisions") if name in stored}


def copy_golden(folder: Path, golden: Path = GOLDEN) -> Path:
    """A copy of a golden bundle at `folder`."""
    return Path(shutil.copytree(golden, folder))


def read_manifest(folder: Path) -> Json:
    """The parsed manifest of a bundle."""
    manifest: Json = json.loads((folder / "manifest.json").read_text())
    return manifest


def current_manifest(golden: Path) -> Json:
    """The manifest of a golden bundle of version 2 in the terms of the current version, keys in their order.

    Its slots have no ages, so that its programs' inputs are named as they are now.
    """
    manifest = replace(parse_manifest((golden / "manifest.json").read_bytes(), str(golden)), version=VERSION)
    value: Json = encode(manifest)
    for program in (*value["prepare"], *value["programs"], *value["finish"]):
        program["weights"] = next((each.location for each in external_initializers(golden / program["file"])), "")
    return value


def copy_current(folder: Path, golden: Path = GOLDEN) -> Path:
    """A copy of a golden bundle of version 2 as one of the current version."""
    copy_golden(folder, golden)
    (folder / "manifest.json").write_text(json.dumps(current_manifest(golden), indent=2) + "\n")
    return folder


def edit_manifest(folder: Path, change: Callable[[Json], object]) -> None:
    """Apply `change` to the parsed manifest and write it back."""
    manifest = read_manifest(folder)
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def fix_hashes(folder: Path) -> None:
    """Make the manifest agree with the files as they are now, so that an attack gets past sizes and hashes."""

    def describe(manifest: Json) -> None:
        for name in manifest["files"]:
            data = (folder / name).read_bytes()
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    edit_manifest(folder, describe)


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with this header (an object to dump, or raw bytes) in front of `data`."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def split_safetensors(path: Path) -> tuple[Json, bytes]:
    """The parsed header of a safetensors file and the data behind it."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def retable(folder: Path, name: str, table: tuple[str, list[int], bytes] | None) -> None:
    """Replace, add or (None) drop one table of a bundle, of this dtype, shape and content; hashes fixed."""
    path = folder / "tables.safetensors"
    header, content = split_safetensors(path)
    tables = {
        key: (entry["dtype"], entry["shape"], content[slice(*entry["data_offsets"])])
        for key, entry in header.items()
        if key != "__metadata__" and key != name
    }
    if table is not None:
        tables[name] = table
    packed, body = {}, b""
    for key, (dtype, shape, data) in tables.items():
        packed[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    path.write_bytes(safetensors_bytes(packed, body))
    fix_hashes(folder)


def add_starts(folder: Path, fresh: int = 1) -> Path:
    """Give a bundle of the current version tables of starts: any levels, and `fresh` rows a start that are halves of
    the sampler's own."""
    sampler, tables = read_manifest(folder)["sampler"], read_tensors(folder / "tables.safetensors")
    own: Any = tables["baseline_coefficients" if sampler["fitted"] else "coefficients"]
    steps = len(own)
    levels = np.random.default_rng(3).uniform(0.1, 1.0, (steps, 3)).astype(np.float32)
    levels[:, 2] = 1
    rows = np.stack([np.roll(own, -w, axis=0) / 2 for w in range(fresh)], axis=1).astype(np.float32)
    retable(folder, "start.levels", ("F32", list(levels.shape), levels.tobytes()))
    retable(folder, "start.coefficients", ("F32", list(rows.shape), rows.tobytes()))
    return folder


def add_previews(folder: Path, of_latents: float, of_prediction: float) -> Path:
    """Give a bundle of the current version a table of previews: the same shares before every step."""
    steps = read_manifest(folder)["sampler"]["steps"]
    levels = np.tile(np.array([of_latents, of_prediction], np.float32), (steps, 1))
    retable(folder, "preview.levels", ("F32", [steps, 2], levels.tobytes()))
    return folder


def zeros(dtype: str, shape: list[int]) -> tuple[str, list[int], bytes]:
    """A table of zeros, for `retable`."""
    return dtype, shape, bytes(math.prod(shape) * {"F64": 8, "BF16": 2}.get(dtype, 4))


def flip_bit(path: Path, position: int) -> None:
    """Flip one bit of the byte at `position`."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << position % 8
    path.write_bytes(content)


def flip_bit_keeping_time(path: Path) -> None:
    """As `rsync --inplace --times` does: size, time and inode stay, the time of change does not."""
    info = path.stat()
    flip_bit(path, -1)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert path.stat().st_ino == info.st_ino


@contextmanager
def may_raise(kind: type[Exception], naming: str) -> Iterator[None]:
    """The body may raise `kind`, with a one-line message that has `naming` in it, and no other error."""
    try:
        yield
    except kind as error:
        message = str(error)
    else:
        return
    assert naming in message
    assert message.isprintable()


def put(*path: str | int, value: object) -> Callable[[Json], None]:
    """A change of one value of the manifest; a last key that is not there is added."""

    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[Json], None]:
    """A change that takes one value out of the manifest."""

    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        del manifest[path[-1]]

    return change


def both(*changes: Callable[[Json], object]) -> Callable[[Json], None]:
    """Several changes, one after the other."""

    def change(manifest: Json) -> None:
        for each in changes:
            each(manifest)

    return change


Latents = NDArray[np.float32]
SHAPE, STEPS = (1, 8, 8), 8  # of the golden bundle
LABELS = [3, 7]
TEXT_SHAPE, TOKENS, EMBED_WIDTH = (4, 8, 8), 8, 16  # of the golden bundle of prompts
PROMPTS = ["a red circle", "a blue square above a red circle"]


def golden_noise(seed: int, batch: int) -> Noise:
    """The noise that a seed stands for in the golden bundle."""
    steps = [latent_noise(seed, 1 + i, batch, SHAPE) for i in range(STEPS)]
    return Noise(latent_noise(seed, INITIAL_STREAM, batch, SHAPE), np.stack(steps))


def distance(a: Latents, b: Latents) -> float:
    """The largest difference of two arrays of one shape."""
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


def relative(a: Latents, b: Latents) -> float:
    """The largest difference over the largest magnitude: the toy model of prompts makes latents in the hundreds."""
    return distance(a, b) / float(np.abs(b).max())


def plain_embeds(count: int = 1, **changes: Any) -> Embeds:
    """Ones for a number of prompts and for what they are guided away from; changes: of its fields."""
    values, mask = np.ones((count, TOKENS, EMBED_WIDTH), np.float32), np.ones((count, TOKENS), np.int64)
    return Embeds(values, mask, values, mask)._replace(**changes)
