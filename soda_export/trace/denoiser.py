"""Trace an unmodified denoiser once, without its weights, into one ONNX graph whose sites are named."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.arguments import first_argument, forward_arguments, map_tensors
from ..models.fake import FakeModel
from ..models.family import Family
from ..models.paths import SiteModule, site_modules
from ..models.spec import ModelSpec
from .marks import input_mark, marked
from .onnx import TracedGraph, trace_to_onnx
from .repeat import Repeats

LATENTS, TIMESTEP, KEPT = "latents", "timestep", "kept"
_ROWS = 3  # sizes of 0 and 1 would be specialised
_KEPT = 5


@dataclass(frozen=True)
class DenoiserTrace:
    """whole: (latents, timestep, each port) -> prediction. renewals: (kept tokens, other tensor arguments by their
    marks' names) -> the kept tokens' outputs of one site of each form. renewed: for each of these outputs the paths of
    the sites of that form; the first is the one that was traced."""

    whole: TracedGraph
    renewals: TracedGraph | None
    renewed: tuple[tuple[str, ...], ...]


def trace_denoiser(
    fake: FakeModel, family: Family, spec: ModelSpec, constants: Mapping[str, Any], dtype: torch.dtype,
    kinds: Sequence[str] = (),
) -> DenoiserTrace:  # fmt: skip
    """Trace with a symbolic number of rows. kinds: of the sites whose renewal is wanted, too. Raises ModelError."""
    sites = site_modules(fake.module, family)
    inputs = _example_inputs(spec, dtype)
    with fake.mode:
        closed = {name: map_tensors(value, fake.mode.from_tensor) for name, value in constants.items()}
        examples = {name: tensor.clone() for name, tensor in inputs.items()}
    call = _Call(fake.module, family, closed, tuple(inputs))
    recorder = _Recorder(sites, kinds)
    known = {f"model.{name}": value for name, value in fake.buffers.items()}
    known |= _flat_constants(constants)
    with marked(sites), recorder:
        repeats = Repeats(fake.module, "model.")
        whole = trace_to_onnx(
            call, examples, dict.fromkeys(examples, (0,)), fake.mode, known, type(fake.module).__name__, repeats=repeats
        )
    whole = whole.renamed(lambda name: name.removeprefix("model."))
    forms = recorder.forms(repeats.traced_path)
    calls = [_renewal_call(alike[0], recorder.arguments[repeats.traced_path(alike[0].path)]) for alike in forms]
    renewals = _trace_renewals(calls, fake, known) if calls else None
    return DenoiserTrace(whole, renewals, tuple(tuple(site.path for site in alike) for alike in forms))


def _example_inputs(spec: ModelSpec, dtype: torch.dtype) -> dict[str, Tensor]:
    made = {LATENTS: torch.zeros(_ROWS, *spec.latent_shape, dtype=dtype), TIMESTEP: torch.zeros(_ROWS)}
    for port in spec.ports:
        made[port.name] = torch.zeros(_ROWS, *port.shape, dtype=getattr(torch, port.dtype))
    return made


def _flat_constants(constants: Mapping[str, Any]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def collect(prefix: str, value: Any) -> None:
        if isinstance(value, Tensor):
            found[prefix] = value
        elif isinstance(value, Mapping):
            for key, entry in value.items():
                collect(f"{prefix}_{key}", entry)

    for name, value in constants.items():
        collect(f"constant_{name}", value)
    return found


class _Call(nn.Module):
    """(latents, timestep, ports) -> the prediction, with everything constant closed over as buffers."""

    def __init__(self, model: nn.Module, family: Family, constants: Mapping[str, Any], names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self._family, self._names = model, family, names
        self._constants = dict(constants)
        for name, tensor in _flat_constants(constants).items():
            self.register_buffer(name, tensor)

    def forward(self, *values: Tensor) -> Tensor:
        given = dict(zip(self._names, values, strict=True))
        latents, timestep = given.pop(LATENTS), given.pop(TIMESTEP)
        constants = {name: self._buffers_of(f"constant_{name}", value) for name, value in self._constants.items()}
        arguments = forward_arguments(self._family, latents, timestep, given, constants)
        return self.model(**arguments, return_dict=False)[0]  # type: ignore[no-any-return]

    def _buffers_of(self, prefix: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self._buffers_of(f"{prefix}_{key}", entry) for key, entry in value.items()}
        return getattr(self, prefix) if isinstance(value, Tensor) else value


class _Recorder:
    """Notes the arguments of each site of `kinds` that is to be renewed, by its path."""

    def __init__(self, sites: Sequence[SiteModule], kinds: Sequence[str]) -> None:
        self._sites = [site for site in sites if site.rule.kind in kinds and site.rule.renew]
        self.arguments: dict[str, dict[str, Any]] = {}
        self._handles: list[Any] = []

    def forms(self, traced: Callable[[str], str]) -> list[list[SiteModule]]:
        """The sites, those together whose modules and arguments are alike. traced: path of a site -> of one that was
        called in its place."""
        alike: dict[Hashable, list[SiteModule]] = {}
        for site in self._sites:
            weights = tuple((name, tuple(weight.shape)) for name, weight in site.module.named_parameters())
            noted = tuple((name, *_form(value)) for name, value in self.arguments[traced(site.path)].items())
            alike.setdefault((site.rule.kind, type(site.module), weights, noted), []).append(site)
        return list(alike.values())

    def __enter__(self) -> None:
        for site in self._sites:
            self._handles.append(site.module.register_forward_pre_hook(self._note(site.path), with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.arguments[path] = {  # by name: the hook that names values comes before
                name: (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value
                for name, value in kwargs.items()
            }

        hook.form = self._note.__qualname__  # type: ignore[attr-defined]  # for alike.py
        return hook


def _form(value: Any) -> tuple[Hashable, ...]:
    """What two calls have in common: for a tensor all but the number of rows, else the value."""
    if isinstance(value, tuple):
        shape, dtype = value
        return (*shape[1:], dtype)
    return (repr(value),)


@dataclass(frozen=True)
class _RenewalCall:
    """How a site's module is called for some of its tokens. forms: name of each tensor given -> its argument, shape of
    a row and type; the kept tokens first. others: arguments that are no tensors."""

    site: SiteModule
    forms: Mapping[str, tuple[str, tuple[int, ...], torch.dtype]]
    others: Mapping[str, Any]


def kept_name(path: str) -> str:
    """Name of the kept tokens of a site."""
    return f"{KEPT}.{path}"


def _renewal_call(site: SiteModule, noted: Mapping[str, Any]) -> _RenewalCall:
    tokens = first_argument(site.module)
    tensors = {name: value for name, value in noted.items() if isinstance(value, tuple)}
    others = {name: value for name, value in noted.items() if not isinstance(value, tuple)}
    (_, count, width), dtype = tensors.pop(tokens)
    forms = {kept_name(site.path): (tokens, (_KEPT, width), dtype)}
    forms |= {input_mark(site.path, name): (name, shape[1:], kind) for name, (shape, kind) in tensors.items()}
    if site.rule.renew == "queries":
        others.pop("encoder_hidden_states", None)
        forms[input_mark(site.path, tokens)] = ("encoder_hidden_states", (count, width), dtype)
    return _RenewalCall(site, forms, others)


class _Renewals(nn.Module):
    """Each call's tensors in turn -> each module's output for the kept tokens."""

    def __init__(self, calls: Sequence[_RenewalCall]) -> None:
        super().__init__()
        self._calls = tuple(calls)
        self.sites = nn.ModuleList(call.site.module for call in calls)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        made, left = [], list(tensors)
        for call, module in zip(self._calls, self.sites, strict=True):
            given = {argument: left.pop(0) for argument, _, _ in call.forms.values()}
            made.append(module(**given, **call.others))
        return tuple(made)


def _trace_renewals(calls: Sequence[_RenewalCall], fake: FakeModel, known: Mapping[str, Tensor]) -> TracedGraph:
    """All of them at once: the exporter has a high cost a call."""
    with fake.mode:
        examples = {
            name: torch.zeros((_ROWS, *shape), dtype=dtype)
            for call in calls
            for name, (_, shape, dtype) in call.forms.items()
        }
    symbolic = {name: (0, 1) if name.startswith(f"{KEPT}.") else (0,) for name in examples}
    buffers = {
        f"sites.{i}.{name.removeprefix(prefix)}": value
        for i, prefix in enumerate(f"model.{call.site.path}." for call in calls)
        for name, value in known.items()
        if name.startswith(prefix)
    }
    where = ", ".join(call.site.path for call in calls)
    numbers = {name: i for i, call in enumerate(calls) for name in call.forms}
    return trace_to_onnx(_Renewals(calls), examples, symbolic, fake.mode, buffers, where=where, calls=numbers)
