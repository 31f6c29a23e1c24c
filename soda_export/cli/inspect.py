"""soda-export inspect"""

from __future__ import annotations

from pathlib import Path

import msgspec
from soda_runtime.checks import open_manifest
from soda_runtime.chunks import chunks_of
from soda_runtime.policy import read_rules
from soda_runtime.strict_json import encode

from ..errors import UsageError
from ..lower.program import ProgramTable, read_table
from ..models.identity import ModelIdentity, SamplerIdentity
from ..models.published import builtin_models, published_models
from ..models.request import ModelRequest
from ..plan.plan import Plan, read_plan
from ..plan.sensitivity import SensitivityMap, read_map
from ..report.describe import (
    describe_arena,
    describe_policy,
    describe_precision,
    describe_request,
    describe_result,
    describe_sampler,
    describe_starts,
    full_steps_by_start,
    megabytes,
    shape_words,
    value_words,
)
from ..report.schedule import draw_schedule
from ..report.sensitivity import draw_sensitivity
from .engines import inspect_engines
from .inspect_sizes import inspect_sizes_of, size_rows
from .model import inspect_model, inspect_published, inspect_sites
from .terminal import print_json, print_table, say


def inspect(
    path: str, /, *, engines: bool = False, sites: bool = False, random_weights: int | None = None,
    image_size: int | None = None, size: str | None = None, frames: int | None = None, fps: float | None = None,
    seconds: float | None = None, json: bool = False,
) -> None:  # fmt: skip
    """Show what a bundle, a stage's file (map, plan, program table) or a model is.

    Examples:

        soda-export inspect engines/digits-b17-ort

        soda-export inspect digits-b17.plan.json --json

        soda-export inspect digits

        soda-export inspect pixart

        soda-export inspect flux-dev --sites

        soda-export inspect engines/digits-b17-trt_rtx --engines

    Parameters
    ----------
    path
        Bundle folder, .map.safetensors, plan.json, programs.json, or a model.
    engines
        Of a bundle: what every engine is made of, layer by layer with --json.
    sites
        Of a model: every value that a plan may decide about, with its shapes and FLOPs; no weights are needed.
    random_weights
        Of a model: seed of random weights in the place of its own.
    image_size
        Of a model of any size: side of a square image in pixels. [default: the pipeline's]
    size
        Of a model of any size: height x width in pixels, e.g. 512x768. [default: the pipeline's]
    frames
        Of a model of clips: how many. [default: the pipeline's]
    fps
        Of a model of clips: frames per second. [default: the pipeline's]
    seconds
        Of a model of sounds: their length. [default: the pipeline's]
    json
        Print the result as JSON.
    """
    target = Path(path)
    request = ModelRequest(
        path, random_weights=random_weights or 0, image_size=image_size, size=(size,) if size else (), frames=frames,
        fps=fps, seconds=seconds,
    )
    if engines:
        inspect_engines(target, json)
    elif sites:
        inspect_sites(request, json)
    elif request != ModelRequest(path, random_weights=0) or random_weights is not None:
        inspect_model(request, json)
    elif target.is_dir() and (target / "manifest.json").exists():
        _inspect_bundle(target, json)
    elif target.is_file() and target.suffix == ".safetensors":
        _inspect_map(target, read_map(target), json)
    elif target.is_file() and target.name == "programs.json":
        _inspect_table(target, read_table(target.read_bytes(), path), json)
    elif target.is_file():
        _inspect_plan(target, read_plan(target), json)
    elif path in builtin_models() or target.is_dir():
        inspect_model(ModelRequest(path), json)
    elif path in published_models():
        inspect_published(path, json)
    else:
        raise UsageError(f"{path}: no such bundle, file or model")


def _inspect_bundle(folder: Path, json: bool) -> None:
    manifest = open_manifest(folder)
    used = sorted({step.program for step in manifest.steps})
    files = sum(entry.bytes for entry in manifest.files.values())
    weights = sum(manifest.files[name].bytes for name in manifest.weights)
    full_steps = full_steps_by_start(folder, manifest)
    result = {
        "model": manifest.model.name, "backend": manifest.backend, "sampler": manifest.sampler.name,
        "steps": manifest.sampler.steps, "guidance": manifest.guidance, "flops_ratio": manifest.flops_ratio,
        "programs": len(used), "engines": [manifest.programs[i].file for i in used],
        "arena_bytes": manifest.arena.bytes, "arena_lower_bound_bytes": manifest.arena.lower_bound_bytes,
        "arena_naive_bytes": manifest.arena.naive_bytes, "weights_bytes": weights, "precision": manifest.precision,
        "bundle_bytes": files, "fitted": manifest.sampler.fitted,
        "full_steps_by_start": full_steps, "gives": describe_result(manifest), "chunks": len(chunks_of(manifest)),
    }  # fmt: skip
    policy = read_rules(folder, manifest)
    if policy is not None:
        result["policy"] = encode(policy)
    sizes = inspect_sizes_of(folder, manifest)
    if len(sizes) > 1:
        result["sizes"] = sizes
    if json:
        print_json(result)
        return
    full, precision = manifest.programs[manifest.baseline_program].flops, describe_precision(folder, manifest)
    plan_file = folder / "plan.json"
    if plan_file.is_file():
        plan = read_plan(plan_file)
        say(*draw_schedule(plan.schedule, plan.model))
    engines = [
        (
            f"engine {manifest.programs[i].file}",
            f"{sum(step.program == i for step in manifest.steps)} steps, "
            f"{100 * manifest.programs[i].flops / full:.1f} % of a full step's FLOPs, "
            f"reads {len(manifest.programs[i].reads)} and writes {len(manifest.programs[i].writes)} slots",
        )
        for i in used
    ]
    print_table(
        f"{folder}: {manifest.model.name} for {manifest.backend}",
        [
            ("model", f"{manifest.model.family}, {manifest.model.sites} sites, latents "
                      f"{shape_words(manifest.model.latent_shape)}, hash {manifest.model.hash[:12]}"),
            ("takes, gives", f"{describe_request(manifest)}; {describe_result(manifest)}"),
            ("sampler", describe_sampler(manifest)),
            ("FLOPs ratio", f"{manifest.flops_ratio:.3f}"),
            ("starts", describe_starts(full_steps)),
            *([("policy", describe_policy(policy))] if policy else []),
            *engines,
            *(size_rows(sizes) if len(sizes) > 1 else []),
            ("cache arena", describe_arena(
                manifest.arena.bytes, manifest.arena.lower_bound_bytes, manifest.arena.naive_bytes
            )),
            ("weights", f"{megabytes(weights)} of {megabytes(files)} in all, {precision}"),
        ],
    )  # fmt: skip


def _inspect_table(path: Path, table: ProgramTable, json: bool) -> None:
    result = {
        "model": table.model.name, "steps": table.sampler.steps, "programs": table.num_engines,
        "engines": [f"program {i}" for i in sorted(set(table.step_programs))], "flops_ratio": table.flops_ratio,
        "arena_bytes": table.arena.bytes, "arena_lower_bound_bytes": table.arena.lower_bound_bytes,
        "arena_naive_bytes": table.arena.naive_bytes,
    }  # fmt: skip
    if json:
        print_json(result)
        return
    arena = table.arena
    print_table(
        str(path),
        [
            ("model", describe_identity(table.model)),
            ("sampler", _sampler_words(table.sampler, table.guidance)),
            ("programs", f"{table.num_engines} for {table.sampler.steps} steps"),
            ("FLOPs ratio", f"{table.flops_ratio:.3f}"),
            ("cache arena", describe_arena(arena.bytes, arena.lower_bound_bytes, arena.naive_bytes)),
        ],
    )


def _inspect_plan(path: Path, plan: Plan, json: bool) -> None:
    result = {
        "model": plan.model.name, "sampler": plan.sampler.name, "steps": plan.sampler.steps,
        "guidance": plan.guidance, "anchors": plan.anchors, "fitted": plan.coefficients is not None,
        "made_by": plan.made_by,
        "held_out": None if plan.held_out is None else msgspec.to_builtins(plan.held_out),
    }  # fmt: skip
    if json:
        print_json(result)
        return
    say(*draw_schedule(plan.schedule, plan.model))
    anchors, kinds = plan.anchors, plan.schedule.num_kinds
    fitted = ", fitted to the schedule" if plan.coefficients is not None else ""
    print_table(
        str(path),
        [
            ("model", describe_identity(plan.model)),
            ("sampler", _sampler_words(plan.sampler, plan.guidance) + fitted),
            ("anchors", f"{len(anchors)} of {plan.sampler.steps} steps compute everything: {value_words(anchors)}"),
            ("engines", f"{kinds}, one for each kind of step"),
            *([("planned by", plan.made_by)] if plan.made_by else []),
            *([("held out", plan.held_out.words)] if plan.held_out else []),
        ],
    )


def _inspect_map(path: Path, sensitivity: SensitivityMap, json: bool) -> None:
    mean = sensitivity.mean_reuse_error()
    result = {
        "info": msgspec.to_builtins(sensitivity.info),
        "relative_standard_error": sensitivity.relative_standard_error(),
        "mean_reuse_error_by_interval": [float(c[c > 0].mean()) if c.any() else 0.0 for c in mean.T],
        "rank_correlation_of_halves_by_interval": [
            float(r) if r == r else None
            for r in sensitivity.stability  # NaN: too few samples or steps
        ],
    }
    if json:
        print_json(result)
        return
    info = sensitivity.info
    rows = [
        ("model", describe_identity(info.model)),
        ("sampler", _sampler_words(info.sampler, info.guidance)),
        ("samples", f"{info.samples}, from seed {info.seed}"),
        ("errors", f"{info.metric} distance; tokens scored by {info.token_score}"),
    ]
    rows.append(("standard error", f"{100 * result['relative_standard_error']:.1f} % of the mean (median)"))
    means = "  ".join(f"{n}: {value:.4f}" for n, value in enumerate(result["mean_reuse_error_by_interval"], 1))
    rows.append(("reuse error by interval", means))
    halves = (
        f"{n}: {'-' if r is None else f'{r:.3f}'}"
        for n, r in enumerate(result["rank_correlation_of_halves_by_interval"], 1)
    )
    rows.append(("halves agree (rank correlation by interval)", "  ".join(halves)))
    say(*draw_sensitivity(sensitivity))
    print_table(str(path), rows)


def describe_identity(model: ModelIdentity) -> str:
    """Name, sites by kind, and the beginning of the hash."""
    kinds = ", ".join(f"{len(numbers)} {kind}" for kind, numbers in model.kinds.items())
    return f"{model.name}; {kinds}; hash {model.hash[:12]}"


def _sampler_words(sampler: SamplerIdentity, guidance: float) -> str:
    eta = f", eta {sampler.eta:g}" if sampler.eta else ""
    channels = f" of {sampler.guided_channels} channels" if sampler.guided_channels else ""
    return f"{sampler.name}, {sampler.steps} steps{eta}, guidance {guidance:g}{channels}"
