"""A module without weights and its family's record -> its sites: shapes, and the FLOPs that each stands for.

One run of the fake module is recorded as a graph (flow.py). A site's FLOPs are those of the operations that vanish when
its outputs are given, whichever module they belong to. An operation that vanishes with several sites belongs to the
first of them, and a site lies inside another if it vanishes with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from ..errors import InternalError, ModelError, first_line
from .arguments import bound_arguments, first_argument, forward_arguments, map_tensors
from .fake import FakeModel
from .family import Family
from .flow import Flow, live_masks
from .paths import SiteModule, block_paths, expand_path, site_modules
from .spec import STACK, ModelSpec, Site

_PER_ENTRY = 3  # FLOPs of normalising, modulating and gating, an entry of a block's output


@dataclass
class _Seen:
    """What one run showed of a site. outputs: shapes for one row. marks: its values' operations. arguments: by name."""

    outputs: tuple[tuple[int, ...], ...] = ()
    marks: tuple[int, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


@torch.no_grad()
def describe_sites(fake: FakeModel, family: Family, spec: ModelSpec, constants: Mapping[str, Any]) -> ModelSpec:
    """The spec with its sites. spec: ports and shapes. constants: argument of forward -> what its Constant makes.

    Raises ModelError where the module does not take these arguments, or a site is never computed.
    """
    modules = site_modules(fake.module, family)
    seen, flow = [_Seen() for _ in modules], Flow()
    entries: list[int] = []
    with fake.mode, flow, _recorded(fake.module, family, modules, flow, seen, entries):
        latents = torch.zeros(1, *spec.latent_shape)
        flow.taint(latents)
        inputs = {port.name: torch.zeros(1, *port.shape, dtype=getattr(torch, port.dtype)) for port in spec.ports}
        closed = {name: map_tensors(value, fake.mode.from_tensor) for name, value in constants.items()}
        arguments = forward_arguments(family, latents, torch.zeros(1), inputs, closed)
        try:
            prediction = fake.module(**arguments, return_dict=False)[0]
        except Exception as error:
            raise ModelError(f"{spec.name}: {type(fake.module).__name__} cannot be run: {first_line(error)}") from error
        result = flow.producer(prediction)
    if tuple(prediction.shape[1:]) != spec.prediction_shape:
        raise InternalError(
            f"family {family.name}: it predicts {tuple(prediction.shape[1:])}, the record says {spec.prediction_shape}"
        )
    absent = next((site.path for site, found in zip(modules, seen, strict=True) if not found.marks), None)
    if absent is not None:
        raise ModelError(f"{spec.name}: its module {absent} is not called, so it is no site")
    order = sorted(range(len(modules)), key=lambda k: seen[k].marks)  # as they are computed
    modules, seen = [modules[k] for k in order], [seen[k] for k in order]
    masks = _masks(flow, seen, result)
    flops, once = _share(flow, masks, len(seen))
    blocks = {path: i for i, path in enumerate(block_paths(dict(fake.module.named_modules()), family))}
    sites = []
    for k, (site, found) in enumerate(zip(modules, seen, strict=True)):
        stack = site.rule.kind == STACK
        tokens = found.arguments[first_argument(site.module)].shape[1] if site.rule.renew else 0
        sites.append(
            Site(
                name=site.path, kind=site.rule.kind, depth=_depth(site.path, blocks), outputs=found.outputs,
                flops=flops[k] + (_PER_ENTRY * sum(entries) if stack else 0), once_flops=once[k], tokens=tokens,
                kept_flops=_kept_flops(fake, site, found) if tokens else (0, 0),
                inside=_inside(k, modules, seen, masks),
            )
        )  # fmt: skip
    return replace(spec, sites=tuple(sites))


def _masks(flow: Flow, seen: list[_Seen], result: int) -> list[int]:
    """For each operation the sites, as bits, that it is needed beside where they are given."""
    cuts = {mark: k for k, found in enumerate(seen) for mark in found.marks}
    return live_masks(flow.operations, (result,), cuts, len(seen))


def _share(flow: Flow, masks: list[int], count: int) -> tuple[list[int], list[int]]:
    """FLOPs of each of `count` sites for one row, and those that count once a step."""
    flops, once = [0] * count, [0] * count
    everything = (1 << count) - 1
    for operation, mask in zip(flow.operations, masks, strict=True):
        vanishes = ~mask & everything
        if not operation.flops or not mask or not vanishes:
            continue
        first = (vanishes & -vanishes).bit_length() - 1
        if operation.once:
            once[-1] += operation.flops  # of the stack, which stands last
        elif operation.counted and operation.tainted:
            flops[first] += operation.flops
    return flops, once


@contextlib.contextmanager
def _recorded(
    model: nn.Module, family: Family, sites: list[SiteModule], flow: Flow, seen: list[_Seen], entries: list[int]
) -> Iterator[None]:  # fmt: skip
    """While this lasts, calls of sites are noted in `seen`, and `entries` gets the size of each block's output."""
    modules = dict(model.named_modules())
    handles: list[Any] = []

    def inside(module: nn.Module, *, once: bool) -> None:
        scopes: list[Any] = []

        def enter(*_: Any) -> None:
            scopes.append(flow.counting(once=once))
            scopes[-1].__enter__()

        def leave(_module: nn.Module, _args: Any, output: Any) -> None:
            scopes.pop().__exit__(None, None, None)
            if not once:
                values = output if isinstance(output, tuple) else (output,)
                entries.append(sum(value[0].numel() for value in values if isinstance(value, Tensor)))

        handles.extend((module.register_forward_pre_hook(enter), module.register_forward_hook(leave)))

    for pattern in family.once:
        for path in expand_path(modules, pattern):
            inside(modules[path], once=True)
    for path in block_paths(modules, family):
        inside(modules[path], once=False)
    for site, found in zip(sites, seen, strict=True):
        handles.append(site.module.register_forward_pre_hook(_note_arguments(found), with_kwargs=True))
        handles.append(site.module.register_forward_hook(_note_outputs(site, found, flow)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note_arguments(found: _Seen) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.arguments = bound_arguments(module, args, kwargs)

    return hook


def _note_outputs(site: SiteModule, found: _Seen, flow: Flow) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        values = [output[place] for place in site.rule.outputs] if site.rule.outputs else [output]
        values = [value for value in values if value is not None]
        found.outputs = tuple(tuple(value.shape[1:]) for value in values)
        found.marks = tuple(flow.mark(value) for value in values)

    return hook


def _kept_flops(fake: FakeModel, site: SiteModule, found: _Seen) -> tuple[int, int]:
    """(a, b): calling the site's module with k of its tokens costs a + b k."""
    two, three = (_flops_of(fake, site, found, kept) for kept in (2, 3))
    return two - 2 * (three - two), three - two


def _flops_of(fake: FakeModel, site: SiteModule, found: _Seen, kept: int) -> int:
    arguments, name, flow = dict(found.arguments), first_argument(site.module), Flow()
    tokens = arguments[name]
    with fake.mode, flow, flow.counting():
        arguments[name] = torch.zeros(1, kept, *tokens.shape[2:], dtype=tokens.dtype)
        flow.taint(arguments[name])
        if site.rule.renew == "queries":
            arguments["encoder_hidden_states"] = tokens
            flow.taint(tokens)
        site.module(**arguments)
    return sum(operation.flops for operation in flow.operations if operation.tainted)


def _depth(path: str, blocks: Mapping[str, int]) -> float:
    """0 for what lies in the first block .. 1 for the last. blocks: path -> number."""
    parts = path.split(".")
    outer = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    number = min((blocks[prefix] for prefix in outer if prefix in blocks), default=0)
    return number / (len(blocks) - 1) if len(blocks) > 1 else 0.0


def _inside(k: int, sites: list[SiteModule], seen: list[_Seen], masks: list[int]) -> str:
    """Path of the innermost site that contains site k: the first one behind it whose outputs spare all of its own."""
    for outer, site in enumerate(sites[k + 1 :], k + 1):
        if site.rule.kind == STACK:
            return site.path
        if site.rule.contains and not any(masks[mark] >> outer & 1 for mark in seen[k].marks):
            return site.path
    return ""
