"""LoRA files for tests, under the key names of whoever writes such files."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray[Any, Any]]
_DTYPES = {"float32": "F32", "float16": "F16", "float64": "F64", "uint16": "BF16", "int8": "I8"}


def write(path: Path, tensors: Arrays, metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file; uint16 stands for bfloat16."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    content = b""
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        dtype = _DTYPES[array.dtype.name]
        header[name] = {
            "dtype": dtype, "shape": list(array.shape), "data_offsets": [len(content), len(content) + len(data)]
        }  # fmt: skip
        content += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def factors(shape: tuple[int, ...], rank: int = 2, seed: int = 0, size: float = 0.1) -> tuple[Any, Any]:
    """Down [rank, in, ...] and up [out, rank, 1 ...] for a matrix [out, in, ...]."""
    numbers = np.random.default_rng(seed)
    down = numbers.normal(0, size, (rank, *shape[1:])).astype(np.float32)
    up = numbers.normal(0, size, (shape[0], rank, *[1] * (len(shape) - 2))).astype(np.float32)
    return down, up


def peft(layers: Mapping[str, tuple[int, ...]], prefix: str = "base_model.model.") -> dict[str, Any]:
    """Factors of layers [out, in, ...] under PEFT's names."""
    made = {}
    for seed, (name, shape) in enumerate(layers.items()):
        made[f"{prefix}{name}.lora_A.weight"], made[f"{prefix}{name}.lora_B.weight"] = factors(shape, seed=seed)
    return made


def kohya(layers: Mapping[str, tuple[int, ...]], prefix: str = "lora_unet_", alpha: float = 2.0) -> dict[str, Any]:
    """The same factors under kohya's names. alpha: as the file says; the rank is 2."""
    made = {}
    for seed, (name, shape) in enumerate(layers.items()):
        key = prefix + name.replace(".", "_")
        made[f"{key}.lora_down.weight"], made[f"{key}.lora_up.weight"] = factors(shape, seed=seed)
        made[f"{key}.alpha"] = np.array(alpha, np.float32)
    return made
