"""A LoRA file as diffusers, PEFT or kohya's scripts write it -> its layers: two factors each, and their scale."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, RequestError
from ..replaced import FLOAT_DTYPES, widened
from ..tensors import TensorEntry, read_header, read_metadata

_DOWN = (
    ".lora_A.weight", ".lora_A.default.weight", ".lora_A.default_0.weight", ".lora_down.weight", ".lora.down.weight",
    ".lora_linear_layer.down.weight", "_lora.down.weight",
)  # fmt: skip
_UP = tuple(ending.replace("lora_A", "lora_B").replace("down", "up") for ending in _DOWN)
_ALPHA = ".alpha"
_OTHER_METHODS = {
    "dora_scale": "DoRA, which scales whole columns", "lora_magnitude_vector": "DoRA, which scales whole columns",
    "hada_w": "LoHa", "lokr_": "LoKr", "lora_mid": "a LoCon with three factors", "oft_": "OFT", "boft_": "BOFT",
    "ia3_": "IA3", "glora": "GLoRA", "lora_embedding_": "a LoRA of token embeddings", ".diff.": "whole differences",
    ".diff_b.": "whole differences", ".w_norm.": "whole differences", ".lora_B.bias.": "a LoRA with biases",
    ".lora_up.bias.": "a LoRA with biases",
}  # fmt: skip
"""What ends of keys have in them, and whose they are."""
_FOLDER_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_METADATA = "lora_adapter_metadata"  # diffusers' key: PEFT's settings, each under the part's name


@dataclass(frozen=True, eq=False)
class Factor:
    """A matrix as it is stored, read as float32 when it is used."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    def values(self) -> NDArray[np.float32]:
        return widened(self.dtype, self.content).reshape(self.shape)


@dataclass(frozen=True)
class LoraLayer:
    """down [rank, in, ...], up [out, rank, ...]; a strength of 1 adds scale * up @ down. name: as the file has it."""

    name: str
    down: Factor
    up: Factor
    scale: float


@dataclass(frozen=True)
class LoraFile:
    """A file that was read whole: whatever becomes of it later does not matter."""

    path: Path
    layers: tuple[LoraLayer, ...]

    @property
    def digest(self) -> str:
        """64 hex digits that tell what it adds from what others add."""
        digest = hashlib.sha256()
        for layer in self.layers:
            digest.update(repr((layer.name, layer.scale)).encode())
            for factor in (layer.down, layer.up):
                digest.update(repr((factor.dtype, factor.shape)).encode() + factor.content)
        return digest.hexdigest()


def read_lora(given: Path) -> LoraFile:
    """Read a .safetensors file, or the one in a folder of PEFT or diffusers. Raises RequestError."""
    path = _file_in(given)
    try:
        entries, metadata = read_header(path), read_metadata(path)
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"lora {path}: cannot be read ({error.strerror})") from None
    except BundleError:
        raise RequestError(f"lora {path}: not a whole .safetensors file; get it again, or convert it") from None
    downs, ups, alphas = _sorted_by_role(path, entries)
    settings = _settings(path, metadata)
    layers = []
    for name, key in downs.items():
        if name not in ups:
            raise RequestError(f"lora {path}: {key!r:.120} has no second factor; the file is incomplete")
        down, up = (_factor(path, each, entries[each], content) for each in (key, ups[name]))
        rank = down.shape[0]
        if not 2 <= len(down.shape) == len(up.shape) or up.shape[1] != rank or math.prod(up.shape[2:]) != 1:
            shapes = f"{list(down.shape)} and {list(up.shape)}"
            raise RequestError(f"lora {path}: the factors of {name!r:.120} do not go together: {shapes}")
        alpha = None
        if name in alphas:
            values = _factor(path, alphas[name], entries[alphas[name]], content).values().reshape(-1)
            alpha = float(values[0]) if values.size == 1 else math.nan
        scale = settings.scale(name, rank, alpha)
        if not math.isfinite(scale):
            raise RequestError(f"lora {path}: the alpha of {name!r:.120} is no number; get the file again")
        layers.append(LoraLayer(name, down, up, scale))
    lone = next((key for name, key in ups.items() if name not in downs), None)
    if lone is not None:
        raise RequestError(f"lora {path}: {lone!r:.120} has no second factor; the file is incomplete")
    return LoraFile(path, tuple(layers))


def _file_in(given: Path) -> Path:
    """The file that a folder has, or the file itself."""
    if given.is_dir():
        found = next((given / name for name in _FOLDER_FILES if (given / name).is_file()), None)
        if found is None:
            raise RequestError(f"lora {given}: the folder has neither {' nor '.join(_FOLDER_FILES)}")
        return found
    if not given.is_file():
        raise RequestError(f"lora {given}: no such file")
    if given.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise RequestError(f"lora {given}: pickled, and loading that can run any code; get it as .safetensors")
    return given


def _sorted_by_role(
    path: Path, entries: Mapping[str, TensorEntry]
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Layer -> key of its down matrix, of its up matrix and of its alpha."""
    found: tuple[dict[str, str], dict[str, str], dict[str, str]] = {}, {}, {}
    others = []
    for key in entries:
        for role, endings in zip(found, (_DOWN, _UP, (_ALPHA,)), strict=True):
            ending = next((e for e in endings if key.endswith(e)), None)
            if ending is None:
                continue
            name = key[: -len(ending)]
            if name in role:
                raise RequestError(f"lora {path}: has {name!r:.120} twice, under two conventions")
            role[name] = key
            break
        else:
            others.append(key)
    for key in others:
        end = f".{'.'.join(key.split('.')[-3:])}."
        method = next((method for mark, method in _OTHER_METHODS.items() if mark in end), None)
        if method is not None:
            raise RequestError(f"lora {path}: is {method} ({key!r:.120}); only plain LoRA can be added")
    if not found[0] and not found[1]:
        what = f"none of its {len(entries)} tensors is a lora_A, lora_B, lora_down or lora_up"
        raise RequestError(f"lora {path}: not a LoRA: {what}")
    if others:
        raise RequestError(f"lora {path}: {others[0]!r:.120} is no part of a plain LoRA; only those can be added")
    return found


def _factor(path: Path, key: str, entry: TensorEntry, content: bytes) -> Factor:
    if entry.dtype not in FLOAT_DTYPES:
        raise RequestError(f"lora {path}: {key!r:.120} is {entry.dtype}; factors are floats of 16 bits or more")
    return Factor(entry.dtype, entry.shape, content[entry.begin : entry.end])


@dataclass(frozen=True)
class _Settings:
    """PEFT's settings of each part, "" where they are of all."""

    parts: Mapping[str, Mapping[str, Any]]

    def scale(self, name: str, rank: int, alpha: float | None) -> float:
        """What the product of the factors is multiplied by. alpha: the file's own for this layer."""
        plain = name.removeprefix("base_model.model.")
        part = next((part for part in self.parts if part and plain.startswith(f"{part}.")), "")
        config = self.parts.get(part, {})
        if alpha is None:
            own = plain.removeprefix(f"{part}.") if part else plain
            pattern = config.get("alpha_pattern") or {}
            alpha = next((a for key, a in pattern.items() if own == key or own.endswith(f".{key}")), None)
        if alpha is None:
            alpha = config.get("lora_alpha", rank)
        usual = isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and rank > 0
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank) if usual else math.nan


def _settings(path: Path, metadata: Mapping[str, str]) -> _Settings:
    """Those in the file's metadata, or of PEFT's adapter_config.json beside it. Raises RequestError."""
    beside = path.with_name("adapter_config.json")
    try:
        if _METADATA in metadata:
            flat = json.loads(metadata[_METADATA])
            parts: dict[str, dict[str, Any]] = {}
            for key, value in flat.items():
                part, _, setting = key.rpartition(".")
                parts.setdefault(part, {})[setting] = value
        elif path.name == _FOLDER_FILES[0] and beside.is_file():
            parts = {"": dict(json.loads(beside.read_text()))}
        else:
            parts = {}
    except (OSError, ValueError, AttributeError, TypeError):
        raise RequestError(f"lora {path}: its settings are not readable as JSON; get it again") from None
    if any(config.get("use_dora") for config in parts.values()):
        raise RequestError(f"lora {path}: is {_OTHER_METHODS['dora_scale']}; only plain LoRA can be added")
    return _Settings(parts)
