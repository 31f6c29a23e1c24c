"""The structs of soda_runtime.h in ctypes, and requests made of fields."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROGRESS = ctypes.CFUNCTYPE(c_int32, c_void_p, c_int32, c_int32)


class Lora(ctypes.Structure):
    """soda_lora."""

    _fields_ = (("size", c_size_t), ("path", c_char_p), ("strength", c_double))


class OpenOptions(ctypes.Structure):
    """soda_open_options."""

    _fields_ = (
        ("size", c_size_t), ("backend", c_char_p), ("device", c_char_p), ("backends_folder", c_char_p),
        ("engine_library", c_char_p), ("threads", c_int32), ("cuda_stream", c_void_p), ("loras", POINTER(Lora)),
        ("num_loras", c_int32), ("preload", c_int32),
    )  # fmt: skip


class Info(ctypes.Structure):
    """soda_info."""

    _fields_ = (
        ("size", c_size_t), ("name", c_char_p), ("family", c_char_p), ("backend", c_char_p), ("precision", c_char_p),
        ("latent_shape", c_int64 * 3), ("image_shape", c_int64 * 3), ("steps", c_int32), ("condition", c_int32),
        ("num_classes", c_int32), ("max_tokens", c_int32), ("embed_width", c_int32), ("takes_tokens", c_int32),
        ("has_guidance", c_int32), ("stochastic", c_int32), ("guidance", c_double), ("cuda_stream", c_void_p),
        ("latent_rank", c_int32), ("latent_axes", c_int64 * 4), ("result", c_int32), ("result_rank", c_int32),
        ("result_axes", c_int64 * 4), ("result_rate", c_double), ("num_slots", c_int32),
        ("takes_start_latents", c_int32), ("inpaints", c_int32), ("policy", c_char_p), ("num_actions", c_int32),
        ("num_chunks", c_int32), ("first_chunk_frames", c_int32), ("chunk_frames", c_int32),
        ("takes_prompts", c_int32), ("num_sizes", c_int32),
    )  # fmt: skip


class Port(ctypes.Structure):
    """soda_port."""

    _fields_ = (
        ("size", c_size_t), ("name", c_char_p), ("dtype", c_int32), ("rank", c_int32), ("shape", c_int64 * 8),
        ("port", c_char_p), ("kind", c_int32), ("negative", c_int32), ("tokenizer", c_int32), ("encoded", c_int32),
        ("least", c_double), ("most", c_double), ("default_value", c_double),
    )  # fmt: skip


class Slot(ctypes.Structure):
    """soda_slot."""

    _fields_ = (
        ("size", c_size_t), ("name", c_char_p), ("dtype", c_int32), ("rank", c_int32), ("shape", c_int64 * 8),
        ("bytes", c_int64),
    )  # fmt: skip


class StepInfo(ctypes.Structure):
    """soda_step_info."""

    _fields_ = (
        ("size", c_size_t), ("file", c_char_p), ("program", c_int32), ("reads", c_int32), ("writes", c_int32),
        ("timestep", c_double), ("flops", c_int64), ("full_steps", c_int32),
    )  # fmt: skip


class DeviceArray(ctypes.Structure):
    """soda_device_array."""

    _fields_ = (("size", c_size_t), ("name", c_char_p), ("address", c_void_p), ("bytes", c_size_t))


class Input(ctypes.Structure):
    """soda_input."""

    _fields_ = (
        ("size", c_size_t), ("name", c_char_p), ("negative", c_int32), ("rows", c_int32), ("data", c_void_p),
        ("bytes", c_size_t), ("on_device", c_int32),
    )  # fmt: skip


class Request(ctypes.Structure):
    """soda_request; arrays given to `request` below are kept in `_arrays`."""

    _fields_ = (
        ("size", c_size_t), ("samples", c_int32), ("baseline", c_int32), ("seed", c_uint64), ("guidance", c_double),
        ("has_guidance", c_int32), ("num_labels", c_int32), ("labels", c_void_p), ("num_prompts", c_int32),
        ("num_negatives", c_int32), ("embeds", c_void_p), ("negative_embeds", c_void_p), ("token_ids", c_void_p),
        ("negative_token_ids", c_void_p), ("token_mask", c_void_p), ("negative_token_mask", c_void_p),
        ("embeds_file", c_char_p), ("noise_initial", c_void_p), ("noise_steps", c_void_p), ("progress", PROGRESS),
        ("progress_user", c_void_p), ("device_arrays", POINTER(DeviceArray)), ("num_device_arrays", c_int32),
        ("num_inputs", c_int32), ("inputs", POINTER(Input)), ("start_latents", c_void_p),
        ("num_start_latents", c_int32), ("start_step", c_int32), ("has_strength", c_int32), ("strength", c_double),
        ("policy", c_char_p), ("vote", c_char_p), ("decisions", c_void_p), ("num_decisions", c_size_t),
        ("prompts", POINTER(c_char_p)), ("negative_prompts", POINTER(c_char_p)), ("num_texts", c_int32),
        ("num_negative_texts", c_int32), ("prompts_2", POINTER(c_char_p)), ("negative_prompts_2", POINTER(c_char_p)),
        ("prompts_3", POINTER(c_char_p)), ("negative_prompts_3", POINTER(c_char_p)),
    )  # fmt: skip


class TruncationStruct(ctypes.Structure):
    """soda_truncation."""

    _fields_ = (
        ("size", c_size_t), ("field", c_char_p), ("sample", c_int32), ("max_tokens", c_int32), ("lost", c_char_p),
    )  # fmt: skip


_WHOLE = {"labels", "token_ids", "negative_token_ids", "token_mask", "negative_token_mask", "decisions"}


def request(**fields: Any) -> Request:
    """A soda_request. Arrays become pointers of the field's type; `labels` brings its number along.

    on_device: name of an input -> address and bytes in the device's memory. ports: name of a port, with "-" before it
    of its negative, -> rows of it, of its type, or their number, address and bytes in the device's memory.
    """
    made = Request(size=ctypes.sizeof(Request))
    made._arrays = []
    inputs = [_input(name, values, made._arrays) for name, values in fields.pop("ports", {}).items()]
    made.inputs, made.num_inputs = (Input * len(inputs))(*inputs), len(inputs)
    on_device = fields.pop("on_device", {})
    made.device_arrays = (DeviceArray * len(on_device))(
        *(DeviceArray(ctypes.sizeof(DeviceArray), name.encode(), *place) for name, place in on_device.items())
    )
    made.num_device_arrays = len(on_device)
    if "labels" in fields:
        fields.setdefault("num_labels", np.size(fields["labels"]))
    if "start_latents" in fields:
        fields.setdefault("num_start_latents", len(fields["start_latents"]))
    if "strength" in fields:
        fields.setdefault("has_strength", 1)
    if "decisions" in fields:
        fields.setdefault("num_decisions", np.size(fields["decisions"]))
    for name, value in fields.items():
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, (np.ndarray, list)):
            whole = name in _WHOLE
            array = np.ascontiguousarray(value, np.int64 if whole else np.float32)
            made._arrays.append(array)
            value = array.ctypes.data
        setattr(made, name, value)
    return made


def _input(name: str, values: NDArray[Any] | tuple[int, int | None, int], kept: list[NDArray[Any]]) -> Input:
    made = Input(ctypes.sizeof(Input), name.removeprefix("-").encode(), int(name[0] == "-"))
    if isinstance(values, tuple):
        made.on_device = 1
        made.rows, made.data, made.bytes = values
        return made
    array = np.ascontiguousarray(values)
    kept.append(array)
    made.rows, made.data, made.bytes = len(array), array.ctypes.data, array.nbytes
    return made
