"""Read a call of the original module: latents, timestep, and what a request would give by port."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import BundleError, ModelError, RequestError
from ..models.arguments import make_constants
from ..models.family import Argument, Combined, Constant, Latents, Request, Timestep
from ..models.record import DenoiserRecord

_IGNORED = ("return_dict",)
_SAME = 1e-4  # of the largest number of a constant: more is another constant


class OtherSize(RequestError):
    """A call for another size than the reader's."""


@dataclass
class ModuleCall:
    """latents: [R, *latent_shape]. timestep: as the scheduler counts; precision: its relative rounding. ports: [R, ...]
    each."""

    latents: Tensor = field(default_factory=lambda: torch.zeros(0))
    timestep: float = 0.0
    precision: float = 0.0
    ports: dict[str, Tensor] = field(default_factory=dict)


class CallReader:
    """Reads calls of one bundle's module, and refuses what the bundle cannot follow."""

    def __init__(self, record: DenoiserRecord, where: str) -> None:
        """where: the bundle, for messages. Raises BundleError where its model takes what cannot be read off a call."""
        import diffusers

        self._where, self._record = where, record
        if record.controls:
            raise BundleError(f"{where}: its ControlNets are built in, the pipeline has its own; use SodaPipeline")
        kind = getattr(diffusers, record.kind, None)
        if kind is None:
            raise BundleError(f"{where}: diffusers has no {record.kind} and no pipeline for it; use SodaPipeline")
        self._signature = inspect.signature(kind.forward)
        family, sizes = record.family, record.sizes
        self._arguments = family.arguments
        for name, argument in _flat(self._arguments):
            if isinstance(argument, Combined) or (isinstance(argument, Request) and argument.change is not None):
                raise BundleError(
                    f"{where}: the pipeline makes {name} of what a request gives, which cannot be undone; "
                    "use SodaPipeline"
                )
        self._ports = {port.name: port for port in family.ports(sizes)}
        try:
            self._constants = make_constants(self._arguments, sizes)
        except (ModelError, KeyError) as error:
            raise BundleError(f"{where}: {error}; build the bundle again") from None

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModuleCall:
        """A call as the pipeline makes it. Raises RequestError, OtherSize where the size is the reason."""
        try:
            given = dict(self._signature.bind(None, *args, **kwargs).arguments)
        except TypeError as error:
            raise RequestError(f"{self._record.kind}.forward: {error}") from None
        given.pop(next(iter(self._signature.parameters)))
        call = ModuleCall()
        self._take(self._arguments, self._constants, given, call)
        for name, value in given.items():
            default = self._signature.parameters[name].default
            if name not in _IGNORED and value is not None and value is not default and value != {}:
                raise RequestError(
                    f"{self._where}: {name} has no effect in the bundle, whose steps are compiled; leave it out"
                )
        for name, port in self._ports.items():
            if port.kind != "row" and name not in call.ports:
                raise RequestError(f"{self._where}: the pipeline gives no {name}, which the bundle takes")
        rows = len(call.latents)
        for name, value in call.ports.items():
            wanted = tuple(self._ports[name].shape)
            if tuple(value.shape) != (rows, *wanted):
                raise RequestError(
                    f"{self._where}: {name} has shape {list(value.shape)}, the bundle takes {[rows, *wanted]}"
                    f"{_token_advice(tuple(value.shape[1:]), wanted)}"
                )
        return call

    def _take(
        self, arguments: Mapping[str, Argument], constants: Mapping[str, Any], given: dict[str, Any], call: ModuleCall
    ) -> None:
        """Take every argument that the family knows out of `given`."""
        for name, argument in arguments.items():
            value = given.pop(name, None)
            if isinstance(argument, Mapping):
                nested = dict(value or {})
                self._take(argument, constants.get(name, {}), nested, call)
                self._require_nothing(name, nested)
            elif isinstance(argument, Latents):
                self._take_latents(value, argument, call)
            elif isinstance(argument, Timestep):
                call.timestep, call.precision = self._timestep(value, argument.scale)
            elif isinstance(argument, Request) and argument.port in self._ports:
                if value is not None:
                    call.ports[argument.port] = torch.as_tensor(value)
            elif isinstance(argument, Constant):
                self._check_constant(name, value, constants[name])

    def _take_latents(self, value: Tensor, argument: Latents, call: ModuleCall) -> None:
        shape = self._record.latent_shape
        sizes = [shape[0], *(self._ports[port].shape[0] for port in argument.beside)]
        if value.dim() != 1 + len(shape) or tuple(value.shape[1:]) != (sum(sizes), *shape[1:]):
            size = self._record.size
            made = f" ({size.width}x{size.height} pixels)" if size.height else ""
            raise OtherSize(
                f"{self._where}: latents of shape {list(value.shape[1:])}, the bundle is for "
                f"{[sum(sizes), *shape[1:]]}{made}; give the pipeline the bundle's height and width"
            )
        call.latents, *beside = torch.split(value, sizes, dim=1)
        call.ports |= dict(zip(argument.beside, beside, strict=True))

    def _timestep(self, value: Any, scale: float) -> tuple[float, float]:
        tensor = torch.as_tensor(value)
        times = tensor.double().reshape(-1)
        if not len(times) or bool((times != times[0]).any()):
            raise RequestError(f"{self._where}: rows of several timesteps in one call; a bundle's steps have one each")
        precision = 2 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
        return float(times[0]) / scale, precision

    def _check_constant(self, name: str, value: Any, own: Any) -> None:
        """What the bundle has built in is what the pipeline gives. None: the model does not look at it."""
        if isinstance(own, Mapping):
            nested = dict(value or {})
            for key, part in own.items():
                self._check_constant(f"{name}[{key!r}]", nested.pop(key, None), part)
            self._require_nothing(name, nested)
            return
        if value is None:
            return
        found = torch.as_tensor(value).detach().cpu().double()
        wanted = torch.as_tensor(own).double()
        alike = found.dim() >= wanted.dim() and found.shape[found.dim() - wanted.dim() + 1 :] == wanted.shape[1:]
        if alike and wanted.shape[0] == 1:
            alike = bool(torch.allclose(found, wanted.expand_as(found), atol=_SAME * float(wanted.abs().max())))
        elif alike:
            alike = found.shape[-wanted.dim()] == wanted.shape[0] and bool(
                torch.allclose(found, wanted.expand_as(found), atol=_SAME * float(wanted.abs().max()))
            )
        if not alike:
            raise OtherSize(
                f"{self._where}: {name} is not what the bundle was built for; give the pipeline the bundle's size, and "
                "leave out what changes it"
            )

    def _require_nothing(self, name: str, left: Mapping[str, Any]) -> None:
        for key, value in left.items():
            if value is not None:
                raise RequestError(f"{self._where}: {name}[{key!r}] has no effect in the bundle; leave it out")


def _flat(arguments: Mapping[str, Argument]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, argument in arguments.items():
        found += _flat(argument) if isinstance(argument, Mapping) else [(name, argument)]
    return found


def _token_advice(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    tokens = len(wanted) and len(found) == len(wanted) and found[1:] == wanted[1:] and found != wanted
    return f"; give the pipeline max_sequence_length={wanted[0]}" if tokens else ""
