"""A request's tensors that lie on a device already: judged by their shapes, copied there without the host.

Host arrays of zeros stand for them while the request is judged. What is asked of host values only a look at them could
tell (whether they are finite) and is left to the caller. What the host must see or change is copied there: masks, the
noise of steps, and initial noise that the sampler scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .backends import DeviceBackend
from .dlpack import DeviceArray, import_array, is_on_device
from .errors import RequestError
from .request import Embeds, Noise
from .signature import EMBEDS

if TYPE_CHECKING:
    from .backends.cuda import Cuda
    from .playback import Playback


_EMBEDS = ("prompt_embeds", "negative_prompt_embeds")
_NAMES = {"initial": "noise.initial", "steps": "noise.steps"}


@dataclass(frozen=True)
class DeviceInputs:
    """Tensors of a request that are on the device; none of them where it is an empty one."""

    initial: DeviceArray | None = None
    embeds: DeviceArray | None = None
    negative: DeviceArray | None = None

    def write(self, playback: Playback, cuda: Cuda, samples: int) -> None:
        """Copy them where the request's programs read them, in the order of the stream."""
        with cuda.lock:
            cuda.use_device()
            cuda.keep(self)
            if self.initial is not None:
                state: Any = playback.initial_state  # x is the first tensor of the state
                cuda.copy_on_device(state.address, self.initial.address, self.initial.nbytes)
            for first, array in ((0, self.embeds), (samples, self.negative)):
                if array is not None:
                    memory: Any = playback.request[EMBEDS]
                    row = array.nbytes // array.shape[0]
                    for i in range(samples):
                        source = array.address + (i if array.shape[0] > 1 else 0) * row
                        cuda.copy_on_device(memory.address + (first + i) * row, source, row)


def take_device_inputs(
    backend: object, embeds: Embeds | None, noise: Noise | None, initial_scale: float
) -> tuple[Embeds | None, Noise | None, DeviceInputs]:
    """The request with zeros in place of its device tensors, and those. Raises RequestError."""
    found = _find(noise, Noise) | _find(embeds, Embeds)
    if not found:
        return embeds, noise, DeviceInputs()
    if not isinstance(backend, DeviceBackend):
        raise RequestError("a tensor of the request lies on a GPU, where this bundle does not run; give host arrays")
    cuda = backend.cuda
    stay = {*_EMBEDS, *(["initial"] if initial_scale == 1.0 else [])}
    taken = {name: _take(value, name, cuda) for name, value in found.items()}
    seen: dict[str, NDArray[Any]] = {
        name: np.zeros(array.shape, np.float32) if name in stay else _to_host(array, cuda)
        for name, array in taken.items()
    }
    there = DeviceInputs(*(taken.get(name) if name in stay else None for name in ("initial", *_EMBEDS)))
    if isinstance(noise, Noise):
        noise = noise._replace(**{name: array for name, array in seen.items() if name in Noise._fields})
    if isinstance(embeds, Embeds):
        embeds = embeds._replace(**{name: array for name, array in seen.items() if name in Embeds._fields})
    return embeds, noise, there


def _find(given: object, kind: type[Noise] | type[Embeds]) -> dict[str, Any]:
    """The fields of a request's part that lie on a device."""
    if not isinstance(given, kind):
        return {}
    return {name: value for name, value in given._asdict().items() if is_on_device(value)}


def _take(value: Any, field: str, cuda: Cuda) -> DeviceArray:
    name, wanted = _NAMES.get(field, field), "int64" if field.endswith("_mask") else "float32"
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
