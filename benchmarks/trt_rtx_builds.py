"""Build TensorRT-RTX engines for GPUs that are not here, and measure what it takes: seconds, peak memory, bytes.

    python benchmarks/trt_rtx_builds.py shapes      # the built-in model, budget 8, two targets; one step edited
    python benchmarks/trt_rtx_builds.py digits      # the same at budget 17
    python benchmarks/trt_rtx_builds.py xl          # 4 layers of DiT-XL's width, random weights, three precisions
    python benchmarks/trt_rtx_builds.py unet        # toys of SD-1.5, SD-2.1, SDXL, a ControlNet; true width of SDXL
    python benchmarks/trt_rtx_builds.py pixart      # PixArt 512, random weights, fp16, budget 8; --layers for fewer

Engines are built and not run: that needs a GPU. Results go to docs/results/trt-rtx-*.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from big_models import BUDGETS, CASES, CLI, RESULTS, run, write_map

TARGETS = (("sm89",), ("sm120",), ("sm89", "sm120"))


def target_options(targets: tuple[str, ...]) -> list[str]:
    """--target of each."""
    return [word for target in targets for word in ("--target", target)]


def build(folder: Path, model: list[str], out: str, *options: str) -> dict[str, Any]:
    """One build: its seconds, peak memory, and what its log says of the engines."""
    done = run([*CLI, "build", *model, "--backend", "trt_rtx", "--out", out, *options], folder)
    log, built = done.log, re.findall(r"compile: (\d+) of \d+ engines built", done.log)
    return {
        "options": list(options), "build_s": done.seconds, "peak_bytes": done.peak_bytes,
        "engines_built": sum(map(int, built)), **read_engines(folder / out),
        "costs": re.findall(r"engines built, [^;]*; (.*)", log),
        "engine_s": {name: float(s) for name, s in re.findall(r"compile: (\S+) for [^:]* in ([\d.]+) s:", log)},
    }  # fmt: skip


def read_engines(bundle: Path) -> dict[str, Any]:
    """What the bundle says of its engines."""
    layers = json.loads((bundle / "engine-layers.json").read_text())
    index = json.loads((bundle / "engines.json").read_text())
    manifest = json.loads((bundle / "manifest.json").read_text())
    kinds: dict[str, int] = {}
    for engine in layers.values():
        for region in engine["regions"]:
            kinds[region["kind"]] = kinds.get(region["kind"], 0) + 1
    steps = {manifest["programs"][step["program"]]["file"] for step in manifest["steps"]}
    return {
        "library_version": index["library_version"], "targets": index["targets"], "weights": index["weights"],
        "flops_ratio": manifest["flops_ratio"], "precision": manifest["precision"], "step_engines": len(steps),
        "engines": len(layers), "engine_bytes": sum(engine["bytes"] for engine in layers.values()),
        "weights_bytes": sum(engine["weights_bytes"] for engine in layers.values()),
        "activation_block_bytes": max(engine["activation_bytes"] for engine in layers.values()),
        "layers": {name: len(engine["regions"]) for name, engine in layers.items()},
        "fused_attention": {name: engine["fused_attention"] for name, engine in layers.items()}, "layer_kinds": kinds,
        "bytes": {name: engine["bytes"] for name, engine in layers.items()},
    }  # fmt: skip


def edit_one_step(plan: Path, out: Path) -> int:
    """Let the first step that reuses everything compute its first site of each kind; the step's number."""
    value = json.loads(plan.read_text())
    step = value["steps"].index("reuse")
    sites = {kind: names for kind, names in value["model"]["sites"].items() if kind != "stack"}
    value["steps"][step] = {kind: ["compute", *["reuse"] * (len(names) - 1)] for kind, names in sites.items()}
    out.write_text(json.dumps(value))
    return int(step)


def measure_builtin(name: str, budget: int, folder: Path) -> dict[str, Any]:
    """A built-in model for each of TARGETS, and again with one step of its plan edited."""
    run([*CLI, "plan", "--model", name, "--budget", str(budget), "--planner", "soda", "--samples", "4", "--out",
         "plan.json"], folder)  # fmt: skip
    model = ["--model", name, "--plan", "plan.json"]
    result: dict[str, Any] = {"case": name, "budget": budget}
    for targets in TARGETS:
        result["+".join(targets)] = build(folder, model, f"out-{len(targets)}-{targets[0]}", *target_options(targets))
    step = edit_one_step(folder / "plan.json", folder / "edited.json")
    edited = build(folder, ["--model", name, "--plan", "edited.json"], "edited", *target_options(TARGETS[0]))
    result["edited"] = {"step": step, **edited}
    for weights in ("inputs",):
        options = (*target_options(TARGETS[0]), "--engine-weights", weights)
        result[weights] = build(folder, model, weights, *options)
    return result


def measure_xl(folder: Path) -> dict[str, Any]:
    """4 layers of DiT-XL's width with every kind of step."""
    make = "import sys; sys.path[:0] = sys.argv[1:3]; import trt_rtx_builds as b; b.write_xl(sys.argv[3])"
    run([sys.executable, "-c", make, str(Path(__file__).parent), str(Path(__file__).parents[1]), str(folder)], folder)
    model = ["--model", "xl", "--plan", "xl.plan.json"]
    result: dict[str, Any] = {"case": "xl", "layers_of_model": 4}
    for precision in ("fp32", "fp16", "bf16"):
        for targets in TARGETS[:2]:
            options = (*target_options(targets), "--precision", precision)
            result[f"{precision} {targets[0]}"] = build(folder, model, f"{precision}-{targets[0]}", *options)
    result["fp16 inputs"] = build(folder, model, "inputs", *target_options(TARGETS[0]), "--precision", "fp16",
                                  "--engine-weights", "inputs")  # fmt: skip
    return result


def write_xl(folder: str) -> None:
    """A diffusers folder of random weights, and a plan with every kind of step."""
    from xl_model import save_random_dit

    from soda_export.models.load import load_model
    from soda_export.plan.plan import plan_text
    from tests.tiny import make_plan, mixed_kept

    save_random_dit(Path(folder) / "xl", layers=4)
    spec = load_model(str(Path(folder) / "xl")).spec
    plan = make_plan(spec, mixed_kept(4, spec.sites[spec.kinds["ff"][0]].tokens))
    (Path(folder) / "xl.plan.json").write_bytes(plan_text(plan))


def measure_pixart(folder: Path, layers: int, max_engines: int) -> dict[str, Any]:
    """PixArt at 512 pixels from a made-up map, as big_models builds it."""
    model = CASES["pixart"]
    if layers:
        make = "import sys; sys.path.insert(0, sys.argv[1]); import trt_rtx_builds as b; b.write_pixart(*sys.argv[2:])"
        run([sys.executable, "-c", make, str(Path(__file__).parent), str(folder), str(layers)], folder)
        model = ["--model", "pixart-few", "--random-weights", "0"]
    make = "import sys; sys.path.insert(0, sys.argv[1]); import trt_rtx_builds as b; b.write_pixart_map(*sys.argv[2:])"
    arguments = [str(Path(__file__).parent), model[1], str(folder / "map.safetensors")]
    run([sys.executable, "-c", make, *arguments], folder)
    planning = ["--map", "map.safetensors", "--budget", str(BUDGETS["pixart"]), "--planner", "soda"]
    more = ["--max-engines", str(max_engines)] if max_engines else []
    options = (*planning, *more, "--without", "text-encoder", "--precision", "fp16", *target_options(("sm89",)))
    return {"case": "pixart", "layers_of_model": layers or 28, "max_engines": max_engines,
            **build(folder, model, "out", *options)}  # fmt: skip


def measure_unet(folder: Path) -> dict[str, Any]:
    """UNets, each for two targets; SDXL at its true width with 1, 2 and 2 transformer layers a level, 512 pixels."""
    make = "import sys; sys.path[:0] = sys.argv[1:3]; import trt_rtx_builds as b; b.write_unets(sys.argv[3])"
    run([sys.executable, "-c", make, str(Path(__file__).parent), str(Path(__file__).parents[1]), str(folder)], folder)
    cases = {name: ["--model", f"./{name}"] for name in ("sd15", "sd21", "sdxl", "sd15-control")}
    cases["sdxl-width"] = ["--model", "./sdxl-width", "--random-weights", "0", "--image-size", "512"]
    planning = ["--planner", "deepcache", "--budget", "4", "--steps", "8", "--without", "decoder"]
    result: dict[str, Any] = {"case": "unet"}
    for name, model in cases.items():
        for targets in TARGETS[:2]:
            out = f"{name}-{targets[0]}"
            options = (*planning, "--precision", "fp16", *target_options(targets))
            result[f"{name} {targets[0]}"] = build(folder, model, out, *options)
            print(name, targets[0], result[f"{name} {targets[0]}"]["build_s"], flush=True)
    return result


def write_unets(folder: str) -> None:
    """Folders of the toys with random weights, and one of SDXL's configurations."""
    from true_width import save_configs

    from tests.tiny_models import UNETS, add_tiny_controlnet, save_tiny_unet

    for kind in UNETS:
        save_tiny_unet(Path(folder) / kind, kind)
    add_tiny_controlnet(save_tiny_unet(Path(folder) / "sd15-control"))
    save_configs("sdxl", Path(folder) / "sdxl-width")


def write_pixart(folder: str, layers: str) -> None:
    """PixArt's published configuration with fewer layers, as a diffusers folder without weights."""
    from soda_export.models.published import read_published

    configs = read_published("pixart")
    for part in ("transformer", "scheduler", "vae"):
        config = dict(configs[part])
        if part == "transformer":
            config["num_layers"] = int(layers)
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        path = Path(folder) / "pixart-few" / part / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(config))


def write_pixart_map(model: str, path: str) -> None:
    """A made-up map for the model."""
    CASES["pixart"] = ["--model", model, "--random-weights", "0"]
    write_map("pixart", path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["shapes", "digits", "xl", "unet", "pixart"])
    parser.add_argument("--layers", type=int, default=0, help="of PixArt; default: all 28")
    parser.add_argument("--max-engines", type=int, default=0, help="of PixArt's plan; default: the planner's own")
    parser.add_argument("--scratch", type=Path, help="where to build; default: the system's temporary folder")
    args = parser.parse_args()
    name = f"trt-rtx-{args.case}"
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        if args.case == "pixart":
            result = measure_pixart(folder, args.layers, args.max_engines)
            name += f"-{args.layers}-layers" if args.layers else ""
            name += f"-{args.max_engines}-engines" if args.max_engines else ""
        elif args.case == "xl":
            result = measure_xl(folder)
        elif args.case == "unet":
            result = measure_unet(folder)
        else:
            result = measure_builtin(args.case, {"shapes": 8, "digits": 17}[args.case], folder)
    result["cores"] = len(os.sched_getaffinity(0))
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
