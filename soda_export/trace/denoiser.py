"""Trace an unmodified denoiser once, without its weights, into one ONNX graph whose sites are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.arguments import forward_arguments, map_tensors
from ..models.fake import FakeModel
from ..models.family import Family
from ..models.paths import SiteModule, site_modules
from ..models.spec import ModelSpec
from .marks import first_argument, input_mark, marked
from .onnx import TracedGraph, trace_to_onnx

LATENTS, TIMESTEP, KEPT = "latents", "timestep", "kept"
_ROWS = 3  # sizes of 0 and 1 would be specialised
_KEPT = 5
_DTYPES = {"label": torch.int64, "mask": torch.int64, "embedding": torch.float32, "scalar": torch.float32}


@dataclass(frozen=True)
class DenoiserTrace:
    """whole: (latents, timestep, each port) -> prediction. renewals: kind of site -> (kept tokens, its other tensor
    arguments by name) -> the kept tokens' outputs, traced of the first such site, whose path is beside it."""

    whole: TracedGraph
    renewals: Mapping[str, tuple[str, TracedGraph]]


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
        whole = trace_to_onnx(
            call, examples, dict.fromkeys(examples, (0,)), fake.mode, known, where=type(fake.module).__name__
        )
    whole = whole.renamed(lambda name: name.removeprefix("model."))
    renewals = {kind: (site.path, _trace_renewal(site, recorder, fake, known)) for kind, site in recorder.first.items()}
    return DenoiserTrace(whole, renewals)


def _example_inputs(spec: ModelSpec, dtype: torch.dtype) -> dict[str, Tensor]:
    made = {LATENTS: torch.zeros(_ROWS, *spec.latent_shape, dtype=dtype), TIMESTEP: torch.zeros(_ROWS)}
    for port in spec.ports:
        made[port.name] = torch.zeros(_ROWS, *port.shape, dtype=_DTYPES[port.kind])
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
        return getattr(self, prefix)


class _Recorder:
    """Notes the arguments of the first site of each kind that is to be renewed."""

    def __init__(self, sites: Sequence[SiteModule], kinds: Sequence[str]) -> None:
        self.first: dict[str, SiteModule] = {}
        for site in sites:
            if site.rule.kind in kinds and site.rule.renew:
                self.first.setdefault(site.rule.kind, site)
        self.arguments: dict[str, dict[str, Any]] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for kind, site in self.first.items():
            self._handles.append(site.module.register_forward_pre_hook(self._note(kind), with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, kind: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.arguments[kind] = {  # by name: the hook that names values comes before
                name: (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value
                for name, value in kwargs.items()
            }

        return hook


class _Renewal(nn.Module):
    """(kept tokens, other tensors) -> the module's output for the kept tokens."""

    def __init__(self, module: nn.Module, tokens: str, others: dict[str, Any], tensors: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self._tokens, self._others, self._tensors = module, tokens, others, tensors

    def forward(self, *tensors: Tensor) -> Tensor:
        given = dict(zip((self._tokens, *self._tensors), tensors, strict=True))
        return self.module(**given, **self._others)  # type: ignore[no-any-return]


def _trace_renewal(site: SiteModule, recorder: _Recorder, fake: FakeModel, known: Mapping[str, Tensor]) -> TracedGraph:
    """The module of one site alone, called with some of its tokens. Inputs are named as the marks of its arguments."""
    noted, tokens = dict(recorder.arguments[site.rule.kind]), first_argument(site.module)
    sizes = {name: value for name, value in noted.items() if isinstance(value, tuple) and name != tokens}
    others = {name: value for name, value in noted.items() if not isinstance(value, tuple)}
    (_, n, width), dtype = noted[tokens]
    names = {name: name for name in sizes}
    shapes = {name: (_ROWS, *shape[1:]) for name, (shape, _) in sizes.items()}
    kinds = {name: kind for name, (_, kind) in sizes.items()}
    if site.rule.renew == "queries":
        all_tokens = "encoder_hidden_states"
        others.pop(all_tokens, None)
        names[all_tokens], shapes[all_tokens], kinds[all_tokens] = tokens, (_ROWS, n, width), dtype
    with fake.mode:
        examples = {KEPT: torch.zeros(_ROWS, _KEPT, width, dtype=dtype)}
        for name in names:
            examples[input_mark(site.path, names[name])] = torch.zeros(shapes[name], dtype=kinds[name])
    call = _Renewal(site.module, tokens, others, tuple(names))
    symbolic = {name: (0, 1) if name == KEPT else (0,) for name in examples}
    prefix = f"model.{site.path}."
    own = {f"module.{name.removeprefix(prefix)}": value for name, value in known.items() if name.startswith(prefix)}
    graph = trace_to_onnx(call, examples, symbolic, fake.mode, own, where=site.path)
    return graph.renamed(lambda name: name.removeprefix("module."))
