"""What this machine has: processor, backends, devices, optional packages, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import msgspec

from .. import __version__
from ..compile import REGISTRY, BackendStatus, backend_status
from ..machine import memory_bytes
from .process import Process, describe_process

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "amx_fp16")
_EXTRAS = {
    "tokenizers": ("prompts in the runtime", "pip install soda-runtime[text]"),
    "scikit-learn": ("training of digits, Frechet distance", "pip install soda-export[metrics]"),
    "torch-fidelity": ("Inception FID", "pip install soda-export[metrics]"),
    "lpips": ("LPIPS", "pip install soda-export[metrics]"),
    "av": ("clips as .mp4", "pip install soda-export[video]"),
    "uvicorn": ("soda-export serve", "pip install soda-export[serve]"),
    "ray": ("sweeps and serving on a cluster", "pip install soda-export[ray]"),
}


class Machine(msgspec.Struct, frozen=True):
    """features: instruction sets that engines make use of."""

    processor: str
    cores: int
    memory_bytes: int
    features: tuple[str, ...]
    gpus: tuple[str, ...]


class Package(msgspec.Struct, frozen=True):
    """An optional package. version: "" where it is missing."""

    name: str
    version: str
    purpose: str
    install: str


class Diagnosis(msgspec.Struct, frozen=True):
    """All of it."""

    soda_export: str
    python: str
    machine: Machine
    process: Process
    backends: tuple[BackendStatus, ...]
    packages: tuple[Package, ...]


def examine() -> Diagnosis:
    """Look at this machine; nothing is run."""
    packages = (Package(name, _version(name), *about) for name, about in _EXTRAS.items())
    backends = tuple(backend_status(name) for name in REGISTRY)
    machine, process = describe_machine(), describe_process()
    return Diagnosis(__version__, platform.python_version(), machine, process, backends, tuple(packages))


def describe_machine() -> Machine:
    """Processor, memory and GPUs, as far as the system says."""
    info, flags, name = Path("/proc/cpuinfo"), set[str](), ""
    for line in info.read_text().splitlines() if info.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            flags = set(value.split())
        elif key.strip() == "model name":
            name = value.strip()
    features = tuple(feature for feature in _FEATURES if feature in flags)
    return Machine(name or platform.processor(), os.cpu_count() or 1, memory_bytes(), features, _gpus())


def _gpus(root: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """NVIDIA GPUs by the driver's own list."""
    found = []
    for file in sorted(root.glob("*/information")):
        model = next((line for line in file.read_text().splitlines() if line.startswith("Model:")), "")
        found.append(model.partition(":")[2].strip() or file.parent.name)
    return tuple(found)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
