"""Copies of the golden bundle that a test may damage, and the bytes to damage them with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from soda_runtime import Noise
from soda_runtime.philox import INITIAL_STREAM, latent_noise

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
EXPECTED = GOLDEN.with_suffix(".npz")

Json = dict[str, Any]


def copy_golden(folder: Path) -> Path:
    """A copy of the golden bundle at `folder`."""
    return Path(shutil.copytree(GOLDEN, folder))


def read_manifest(folder: Path) -> Json:
    """The parsed manifest of a bundle."""
    manifest: Json = json.loads((folder / "manifest.json").read_text())
    return manifest


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


def flip_bit(path: Path, position: int) -> None:
    """Flip one bit of the byte at `position`."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << position % 8
    path.write_bytes(content)


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

Latents = NDArray[np.float32]
SHAPE, STEPS = (1, 8, 8), 8  # of the golden bundle
LABELS = [3, 7]


def golden_noise(seed: int, batch: int) -> Noise:
    """The noise that a seed stands for in the golden bundle."""
    steps = [latent_noise(seed, 1 + i, batch, SHAPE) for i in range(STEPS)]
    return Noise(latent_noise(seed, INITIAL_STREAM, batch, SHAPE), np.stack(steps))
