"""soda-export inspect MODEL: what a model is, and what its sites cost."""

from __future__ import annotations

from typing import Any

import msgspec

from ..models.flops import full_step_flops
from ..models.published import PARTS, read_published
from ..models.request import ModelRequest
from ..models.spec import ModelSpec, Port, Site
from ..report.describe import shape_words, value_words
from .terminal import print_columns, print_json, print_table

_BAR = 30  # characters of a whole step
_MADE_OF = {"pixels": "which are pixels", "latents": "which a decoder turns into a result"}


def inspect_published(alias: str, json: bool) -> None:
    """A model of the hub, as far as it is known without its weights."""
    configs = read_published(alias)
    if json:
        print_json(configs)
        return
    rows = [("repository", str(configs["repository"]))]
    for part in PARTS:
        given = configs.get(part, {}).items()
        rows += [(f"{part} {key.removeprefix('_')}", value_words(value)) for key, value in given if value is not None]
    print_table(alias, rows)


def inspect_model(request: ModelRequest, json: bool) -> None:
    """A model whose configuration is at hand: ports, shapes, how many sites of which kind."""
    from ..models.load import load_model

    loaded = load_model(request)
    spec = loaded.spec
    fields: dict[str, Any] = msgspec.to_builtins(spec)
    if json:
        print_json(fields)
        return
    rows_a_sample = 2 if loaded.family.guidance == "rows" else 1
    step = full_step_flops(spec, rows_a_sample)
    ports = ", ".join(_port_words(port) for port in spec.ports if port.kind != "row")
    print_table(
        request.model,
        [
            ("name", spec.name),
            ("family", spec.family),
            ("hash", spec.hash),
            ("latents", f"{shape_words(spec.latent_shape)}, {_MADE_OF[spec.output]}"),
            ("prediction", shape_words(spec.prediction_shape)),
            ("takes", ports or "noise alone"),
            ("sites", ", ".join(f"{len(numbers)} {kind}" for kind, numbers in spec.kinds.items())),
            ("a step", f"{step / 1e12:.6g} TFLOPs for {rows_a_sample} row{'s' * (rows_a_sample > 1)}, one sample"),
        ],
    )
    print_table("where a step's FLOPs are", _by_kind(spec, [_flops(site, rows_a_sample) / step for site in spec.sites]))


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
        (f"{len(numbers)} {kind}", _bar(sum(shares[k] for k in numbers)))
        for kind, numbers in spec.kinds.items()
    ]


def _port_words(port: Port) -> str:
    return f"{port.name} {f'0 to {port.num_classes - 1}' if port.kind == 'label' else f'({shape_words(port.shape)})'}"


def _bar(share: float) -> str:
    """A share of a step as a picture and a figure."""
    return f"{'█' * round(_BAR * share):<{_BAR}} {100 * share:.1f} % of a step"
