"""What `soda-export build` does, as a function of Python."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from soda_runtime import Bundle

from ..compile.options import EngineOptions
from ..errors import UsageError
from ..models.request import ModelRequest
from ..options import BundleOptions, ProfileOptions, SamplerRequest
from ..plan.solve import PlanOptions
from ..policy.options import PolicyOptions

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class _Files:
    """What is read in place of being measured or planned."""

    map: Path | None = None
    plan: tuple[Path, ...] = ()


_GROUPS = {
    "model": ModelRequest, "sampler": SamplerRequest, "profiling": ProfileOptions, "planning": PlanOptions,
    "bundle": BundleOptions, "engines": EngineOptions, "policy": PolicyOptions, "files": _Files,
}  # fmt: skip
"""Argument of make_bundle -> options that it groups; no two groups have an option of the same name."""


def build(model: str | Path, *, progress: Progress = lambda stage, done, total: None, **options: Any) -> Bundle:
    """Build a bundle and open it: build("pixart", budget=8, backend="openvino").

    model: built-in model, hub alias, owner/name of a hub repository, or path of a diffusers pipeline folder. options:
    those of `soda-export build` with underscores, e.g. `flops_ratio=2.5`, `without=["decoder"]`, `plan="my-plan.json"`;
    `soda-export build --help` explains each. progress(stage, done, total) is called now and then. Stages that an
    earlier build left in engines/.work are taken from there. Raises SodaError.
    """
    from .make import make_bundle  # with torch

    given = _grouped({"model": str(model), **options})
    files = given.pop("files", _Files())
    return Bundle.open(make_bundle(**given, progress=progress, map=files.map, plan=files.plan).built.out)


def _grouped(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by group; groups of which none is given are left out."""
    fields = {field.name: (group, kind) for group, kind in _GROUPS.items() for field in dataclasses.fields(kind)}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {near[0]}?" if near else "`soda-export build --help` lists them"
            raise UsageError(f"build: there is no option {name}; {hint}")
        group, kind = fields[name]
        groups.setdefault(group, {})[name] = [value] if _is_one_of_many(kind, name, value) else value
    return {group: _converted(given, _GROUPS[group]) for group, given in groups.items()}


def _converted(given: Mapping[str, Any], kind: type) -> Any:
    try:
        return msgspec.convert(given, kind, dec_hook=_to_path)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        name = place.strip("`").removeprefix("$.").partition("[")[0]
        raise UsageError(f"build: {name}={given.get(name)!r}: {what}") from None


def _is_one_of_many(kind: type, name: str, value: Any) -> bool:
    """Whether an option that may be given several times is given once, as a word."""
    annotation = next(field.type for field in dataclasses.fields(kind) if field.name == name)
    return isinstance(value, str) and str(annotation).startswith("tuple[")


def _to_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise TypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
