"""Put together what a denoiser's forward takes, as the family's record says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .family import Argument, Combined, Constant, Family, Latents, Request, Sizes, Timestep


def forward_arguments(
    family: Family, latents: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor], constants: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments of forward.

    latents: [R, *latent_shape]. timestep: [R], as the scheduler counts. inputs: what a request gives by port, [R, ...].
    constants: argument -> what its Constant or Combined makes, one row for all (make_constants).
    """
    floating, rows = latents.dtype, latents.shape[0]

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.expand(rows, *tensor.shape[1:])

    def put_together(arguments: Mapping[str, Argument], constants: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, argument in arguments.items():
            if isinstance(argument, Latents):
                beside = [inputs[port].to(floating) for port in argument.beside]
                made[name] = torch.cat([latents, *beside], dim=1) if beside else latents  # [R, C, ...]
            elif isinstance(argument, Timestep):
                made[name] = timestep * argument.scale if argument.scale != 1.0 else timestep
            elif isinstance(argument, Request):
                if argument.port not in inputs:
                    continue  # this configuration of the family has no such port
                value = inputs[argument.port]
                value = value.to(floating) if value.is_floating_point() else value
                made[name] = argument.change(value) if argument.change else value
            elif isinstance(argument, Combined):
                values = [inputs[port].to(floating) for port in argument.ports]
                made[name] = argument.combine(repeated(constants[name]), *values)
            elif isinstance(argument, Constant):
                made[name] = map_tensors(constants[name], repeated) if argument.rows else constants[name]
            else:
                made[name] = put_together(argument, constants.get(name, {}))
        return made

    return put_together(family.arguments, constants)


def make_constants(arguments: Mapping[str, Argument], sizes: Sizes) -> dict[str, Any]:
    """Argument -> what its Constant makes; for a dict of arguments those of its keys that are constant."""
    made: dict[str, Any] = {}
    for name, argument in arguments.items():
        if isinstance(argument, (Constant, Combined)):
            made[name] = argument.make(sizes)
        elif isinstance(argument, Mapping):
            made[name] = make_constants(argument, sizes)
    return made


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested dicts, lists and tuples with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(entry, change) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(entry, change) for entry in value)
    return value


def bound_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name; what lands in **kwargs is among them."""
    signature = inspect.signature(module.forward)
    bound = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    return bound


def first_argument(module: nn.Module) -> str:
    """Name of the argument that carries a module's tokens."""
    return next(iter(inspect.signature(module.forward).parameters))
