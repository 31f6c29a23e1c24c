"""engines.json: what the compiled engines of a bundle were built with, so that another machine knows before it opens
one. It goes with the backends whose engines belong to a library's version and a GPU (BUNDLE.md, section 14)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import EngineError
from .side_files import read_side_file
from .strict_json import encode

INDEX_NAME, FORMAT, VERSION = "engines.json", "soda-engines", 1
INDEXED_BACKENDS = frozenset({"trt", "trt_rtx"})
_MAX_BYTES = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,99}")


@dataclass(frozen=True)
class EngineEntry:
    """One engine. content: hex SHA-256 of the program that it was built from; it was built under the name
    `soda-program-<content>`. weights_file: where the weights are that the engine may not have itself, "": none.
    activation_bytes: scratch memory that it needs at the greatest batch, 0: not known."""

    content: str
    weights_file: str
    activation_bytes: int


@dataclass(frozen=True)
class EngineIndex:
    """engines.json, whole. model and precision: as a build command names them."""

    format: str
    version: int
    library: str
    library_version: str
    targets: tuple[str, ...]
    weights: Literal["baked", "stripped", "inputs"]
    max_batch: int
    model: str
    precision: Literal["fp32", "fp16", "bf16"]
    engines: dict[str, EngineEntry]

    def rebuild(self, folder: Path, *options: str, library: str = "") -> str:
        """The command that builds this bundle again; options, library: what to change."""
        model = self.model if _WORD.fullmatch(self.model) else "MODEL"
        words = ["soda-export build", f"--model {model}", f"--plan {folder / 'plan.json'}"]
        words += [f"--precision {self.precision}", f"--backend {library or self.library}", *options, f"--out {folder}"]
        return " ".join(words)


def read_index(folder: Path) -> EngineIndex:
    """Read and check a bundle's engines.json. Raises EngineError."""
    path = folder / INDEX_NAME
    try:
        index = read_side_file(
            path, EngineIndex, FORMAT, VERSION, _MAX_BYTES, refusal=EngineError, advice="rebuild the bundle"
        )
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror}); rebuild the bundle") from None
    files = {entry.weights_file for entry in index.engines.values()} - {""}
    words = (index.library, index.library_version, *index.targets, *files)
    if not all(_NAME.fullmatch(word) and ".." not in word for word in words):
        raise EngineError(f"{path}: its library, targets or weights files are no names; rebuild the bundle")
    return index


def index_text(index: EngineIndex) -> str:
    """Canonical text: keys in schema order, engines sorted by name."""
    value = encode(index)
    value["engines"] = dict(sorted(value["engines"].items()))
    return json.dumps(value, indent=1) + "\n"
