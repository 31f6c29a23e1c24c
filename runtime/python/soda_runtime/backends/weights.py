"""Weights outside of engines: one device copy that all engines take as inputs, or what a stripped engine gets back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..engine_index import EngineIndex
from ..errors import EngineError
from ..replaced import HostTensor
from ..tensors import read_header
from .cuda import Cuda, DeviceMemory

_ALIGNMENT = 256
_TRT_DTYPES = {"F32": ("FLOAT", 4), "F16": ("HALF", 2), "BF16": ("BF16", 2), "I64": ("INT64", 8)}


class DeviceWeights:
    """The tensors of weights files on the device; a file is copied when an engine asks for the first of its tensors."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._loaded: dict[Path, tuple[DeviceMemory, dict[str, int]]] = {}
        self._replaced: WeakKeyDictionary[HostTensor, DeviceMemory] = WeakKeyDictionary()

    def address(self, name: str, file: Path, engine: Path) -> int:
        """Where tensor `name` of a file lies on the device. Raises EngineError."""
        if file not in self._loaded:
            self._loaded[file] = self._load(file)
        memory, places = self._loaded[file]
        if name not in places:
            raise EngineError(f"{engine}: takes {name!r}, which {file.name} does not have; rebuild the bundle")
        return memory.address + places[name]

    def copy(self, tensor: HostTensor) -> DeviceMemory:
        """A tensor on the device that stands for a file's own, once for all engines that take it."""
        if tensor not in self._replaced:
            self._replaced[tensor] = memory = self._cuda.allocate(max(1, tensor.content.nbytes))
            self._cuda.copy_in(memory.address, tensor.content)
        return self._replaced[tensor]

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(memory.nbytes for memory, _ in self._loaded.values())

    def free(self) -> None:
        """Free the device copies."""
        while self._loaded:
            self._loaded.popitem()[1][0].free()
        for memory in self._replaced.values():
            memory.free()
        self._replaced.clear()

    def _load(self, path: Path) -> tuple[DeviceMemory, dict[str, int]]:
        if not path.is_file():
            raise EngineError(f"{path}: no such weights file; copy the bundle again or rebuild it")
        header, places, end = read_header(path), {}, 0
        for name, entry in header.items():
            places[name] = end
            end += -(-(entry.end - entry.begin) // _ALIGNMENT) * _ALIGNMENT
        memory, content = self._cuda.allocate(end), np.memmap(path, np.uint8, "r")
        for name, entry in header.items():
            self._cuda.copy_in(memory.address + places[name], content[entry.begin : entry.end])
        return memory, places


def refit(
    trt: Any, logger: Any, engine: Any, path: Path, index: EngineIndex, replaced: Mapping[str, HostTensor]
) -> None:
    """Put the weights of a stripped engine back, those `replaced` and else the bundle's. Raises EngineError."""
    refitter = trt.Refitter(engine, logger)
    held = []  # until the library has copied them
    wanted = set(refitter.get_all_weights())
    for name, dtype, values in _tensors(path.parent / index.engines[path.name].weights_file):
        if name in wanted:
            values = replaced[name].content if name in replaced else values
            held.append(values)
            kind, width = _TRT_DTYPES[dtype]
            weights = trt.Weights(getattr(trt.DataType, kind), values.ctypes.data, values.size // width)
            refitter.set_named_weights(name, weights)
    missing = refitter.get_missing_weights()
    if missing or not refitter.refit_cuda_engine():
        what = f"weight {sorted(missing)[0]!r} is not in the weights file" if missing else "the library cannot refit it"
        raise EngineError(f"{path}: {what}; run `{index.rebuild(path.parent)}`")


def _tensors(path: Path) -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
    content = np.memmap(path, np.uint8, "r")
    for name, entry in read_header(path).items():
        yield name, entry.dtype, content[entry.begin : entry.end]
