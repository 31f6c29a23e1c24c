"""A request's tensors that lie on a device already: judged by their shapes, copied there without the host.

Host arrays of zeros stand for them while the request is judged. What is asked of host values only a look at them could
tell (whether they are finite) and is left to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .dlpack import DeviceArray, import_array, is_on_device
from .errors import RequestError
from .request import Embeds, Noise
from .signature import EMBEDS

if TYPE_CHECKING:
    from .backends.cuda import Cuda
    from .playback import Playback


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
    initial = noise.initial if isinstance(noise, Noise) and is_on_device(noise.initial) else None
    positive = embeds.prompt_embeds if isinstance(embeds, Embeds) and is_on_device(embeds.prompt_embeds) else None
    given = embeds.negative_prompt_embeds if isinstance(embeds, Embeds) else None
    negative = given if given is not None and is_on_device(given) else None
    if initial is None and positive is None and negative is None:
        return embeds, noise, DeviceInputs()
    cuda: Cuda | None = getattr(backend, "cuda", None)
    if cuda is None:
        raise RequestError("a tensor of the request lies on a GPU, where this bundle does not run; give host arrays")
    if initial is not None and initial_scale != 1.0:
        raise RequestError(
            f"noise.initial lies on a GPU, and this sampler multiplies it by {initial_scale:g}; give a host array"
        )
    taken = DeviceInputs(
        _take(initial, "noise.initial", cuda), _take(positive, "prompt_embeds", cuda),
        _take(negative, "negative_prompt_embeds", cuda),
    )  # fmt: skip
    if taken.initial is not None and noise is not None:
        noise = noise._replace(initial=np.zeros(taken.initial.shape, np.float32))
    if embeds is not None:
        if taken.embeds is not None:
            embeds = embeds._replace(prompt_embeds=np.zeros(taken.embeds.shape, np.float32))
        if taken.negative is not None:
            embeds = embeds._replace(negative_prompt_embeds=np.zeros(taken.negative.shape, np.float32))
    return embeds, noise, taken


def _take(value: Any, name: str, cuda: Cuda) -> DeviceArray | None:
    if value is None:
        return None
    try:
        array = import_array(value, cuda.stream)
    except ValueError as error:
        raise RequestError(f"{name} lies on a GPU and is {error}; give contiguous float32") from None
    if array.dtype != "float32" or array.device != cuda.device:
        where = f"{array.dtype} on device {array.device}"
        raise RequestError(f"{name} is {where}; this session takes float32 on device {cuda.device}")
    return array
