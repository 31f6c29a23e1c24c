"""soda-export inspect MODEL: what a model is, and what its sites cost."""

from __future__ import annotations

from typing import Any

import msgspec

from ..models.flops import full_step_flops
from ..models.published import PARTS, read_published
from ..models.request import ModelRequest
from ..models.spec import ModelSpec, Site
from .terminal import print_columns, print_json, print_table


def inspect_published(alias: str, json: bool) -> None:
    """A model of the hub, as far as it is known without its weights."""
    configs = read_published(alias)
    if json:
        print_json(configs)
        return
    rows = [("repository", str(configs["repository"]))]
    for part in PARTS:
        rows += [(f"{part} {key}", str(value)) for key, value in configs.get(part, {}).items()]
    print_table(alias, rows)


def inspect_model(request: ModelRequest, json: bool) -> None:
    """A model whose configuration is at hand: ports, shapes, how many sites of which kind."""
    from ..models.load import load_model

    spec = load_model(request).spec
    fields: dict[str, Any] = msgspec.to_builtins(spec)
    if json:
        print_json(fields)
        return
    ports = ", ".join(f"{port.name} {list(port.shape)}" for port in spec.ports if port.kind != "row")
    kinds = ", ".join(f"{len(numbers)} {kind}" for kind, numbers in spec.kinds.items())
    rows = [(key, str(value)) for key, value in fields.items() if key not in ("sites", "ports")]
    print_table(request.model, [*rows, ("ports", ports), ("sites", kinds)])


def inspect_sites(request: ModelRequest, json: bool) -> None:
    """Every site with its shapes, its FLOPs in a step of one sample and its share of the step; no weights are read."""
    from ..models.load import load_model

    loaded = load_model(request)
    spec, rows = loaded.spec, 2 if loaded.family.guidance == "rows" else 1
    step = full_step_flops(spec, rows)
    shares = [_flops(site, rows) / step for site in spec.sites]
    if json:
        sites = [
            {"name": site.name, "kind": site.kind, "outputs": site.outputs, "flops": _flops(site, rows),
             "share": share, "tokens": site.tokens, "inside": site.inside}
            for site, share in zip(spec.sites, shares, strict=True)
        ]  # fmt: skip
        print_json({"model": request.model, "rows": rows, "step_flops": step, "sites": sites})
        return
    table = [
        (
            site.name, site.kind, _shapes(site), f"{_flops(site, rows) / 1e9:.3f}", f"{100 * share:.2f} %",
            str(site.tokens or "-"),
        )
        for site, share in zip(spec.sites, shares, strict=True)
    ]  # fmt: skip
    print_columns(
        f"{request.model}: {len(spec.sites)} sites, {step / 1e12:.6g} TFLOPs a step of {rows} row{'s' * (rows > 1)}",
        ("site", "kind", "shape", "GFLOPs", "share", "tokens"), table,
    )  # fmt: skip
    print_table("by kind", _by_kind(spec, shares))


def _flops(site: Site, rows: int) -> int:
    return rows * site.flops + site.once_flops


def _shapes(site: Site) -> str:
    return " ".join("x".join(map(str, shape)) for shape in site.outputs)


def _by_kind(spec: ModelSpec, shares: list[float]) -> list[tuple[str, str]]:
    return [
        (f"{len(numbers)} {kind}", f"{100 * sum(shares[k] for k in numbers):.1f} % of a step")
        for kind, numbers in spec.kinds.items()
    ]
