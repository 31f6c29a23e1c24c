"""A request's tensors that lie on a device already: judged by their shapes, copied there without the host.

Host arrays of zeros stand for them while the request is judged. What is asked of host values only a look at them could
tell (whether they are finite) and is left to the caller. What the host must see or change is copied there: masks, the
noise of steps, latents to start from, and initial noise that the sampler scales or mixes with these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends import DeviceBackend, Memory
from .backends.cuda import Cuda
from .dlpack import DeviceArray, import_array, is_on_device
from .errors import RequestError
from .manifest import EmbeddingPort, Manifest
from .request import Noise, Request


@dataclass(frozen=True)
class DeviceInputs:
    """Tensors of a request that are on the device. ports: name -> values of the conditional and unconditional rows."""

    initial: DeviceArray | None = None
    ports: dict[str, tuple[DeviceArray | None, DeviceArray | None]] = field(default_factory=dict)

    def write(self, initial_state: Memory, request: Mapping[str, Memory], cuda: Cuda, samples: int) -> None:
        """Copy them where the request's programs read them, in the order of the stream."""
        with cuda.lock:
            cuda.use_device()
            cuda.keep(self)
            if self.initial is not None:  # x is the first tensor of the state
                cuda.copy_on_device(initial_state.address, self.initial.address, self.initial.nbytes)
            for name, halves in self.ports.items():
                for first, array in zip((0, samples), halves, strict=True):
                    if array is not None:
                        row = array.nbytes // array.shape[0]
                        for i in range(samples):
                            source = array.address + (i if array.shape[0] > 1 else 0) * row
                            cuda.copy_on_device(request[name].address + (first + i) * row, source, row)


def take_device_inputs(
    backend: object, request: Request, manifest: Manifest, mixes: bool
) -> tuple[Request, DeviceInputs]:
    """A request whose inputs are named, with zeros in place of its device tensors, and those. mixes: the host needs the
    initial noise. Raises RequestError."""
    noise = request.noise._asdict() if isinstance(request.noise, Noise) else {}
    start = {"start_latents": request.start_latents}
    given = (request.inputs, request.negative_inputs, noise, start)
    if not any(is_on_device(value) for values in given for value in values.values()):
        return request, DeviceInputs()
    if not isinstance(backend, DeviceBackend):
        raise RequestError("a tensor of the request lies on a GPU, where this bundle does not run; give host arrays")
    cuda = backend.cuda
    floats = {port.name for port in manifest.ports if port.dtype == "float32"}
    stay = {port.name for port in manifest.ports if isinstance(port, EmbeddingPort)}
    inputs, there = _take_all(request.inputs, "", floats, stay, cuda)
    negative, negative_there = _take_all(request.negative_inputs, "the negative of ", floats, stay, cuda)
    scaled = set() if mixes or manifest.sampler.initial_scale != 1.0 else {"initial"}
    noise, noise_there = _take_all(noise, "noise.", {"initial", "steps"}, scaled, cuda)
    start, _ = _take_all(start, "", {"start_latents"}, set(), cuda)
    names = there.keys() | negative_there.keys()
    ports = {name: (there.get(name), negative_there.get(name)) for name in names}
    if noise:
        request = replace(request, noise=Noise(**noise))
    latents = start["start_latents"]
    request = replace(request, inputs=inputs, negative_inputs=negative, start_latents=latents)
    return request, DeviceInputs(noise_there.get("initial"), ports)


def _take_all(
    values: Mapping[str, Any], prefix: str, floats: set[str], stay: set[str], cuda: Cuda
) -> tuple[dict[str, Any], dict[str, DeviceArray]]:
    """The values with host arrays in place of device tensors, and those tensors that stay there."""
    there: dict[str, DeviceArray] = {}
    seen: dict[str, Any] = {}
    for name, value in values.items():
        if not is_on_device(value):
            seen[name] = value
            continue
        array = _take(value, f"{prefix}{name}", "float32" if name in floats else "int64", cuda)
        if name in stay:
            there[name], seen[name] = array, np.zeros(array.shape, np.float32)
        else:
            seen[name] = _to_host(array, cuda)
    return seen, there


def _take(value: Any, name: str, wanted: str, cuda: Cuda) -> DeviceArray:
    try:
        array = import_array(value, cuda.stream)
    except (ValueError, BufferError) as error:  # producers refuse with a BufferError, e.g. what requires a gradient
        raise RequestError(f"{name} lies on a GPU and is refused ({error}); give contiguous {wanted}") from None
    if array.dtype != wanted or array.device != cuda.device:
        where = f"{array.dtype} on device {array.device}"
        raise RequestError(f"{name} is {where}; this session takes {wanted} on device {cuda.device}")
    return array


def _to_host(array: DeviceArray, cuda: Cuda) -> NDArray[Any]:
    return cuda.copy_out(array.address, array.nbytes).view(array.dtype).reshape(array.shape)
