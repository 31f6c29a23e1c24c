"""Measure a GPU: what the same schedule gains eagerly, and in the engines of every library that is there.

    scripts/bench_gpu.sh                              # DiT-XL/2 256 at batch 1 and 8, PixArt 512 and 1024
    scripts/bench_gpu.sh --minutes 25                 # begins no row after that; the same command goes on later
    scripts/bench_gpu.sh --cases dit-xl-2-256 --ratios 2.5 --systems eager ort
    python benchmarks/gpu.py --smoke --device cpu     # two layers and few steps: whether the script itself works

Random weights, which time like real ones; a made-up map, since they have no sensitivity worth measuring. Every figure
is a median over generations from request to latents. Rows are measured in processes of their own and written as soon as
they are there: what cannot run says why in its row, and a run that was stopped goes on with the rows that are missing.
Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from big_models import CASES, CLI, RESULTS, write_map
from gpu_table import table_of

BATCHES = {"dit-xl-2-256": (1, 8), "pixart": (1,), "pixart-1024": (1,)}
RATIOS = (2.5, 1.9)
PRECISIONS = {"ort": ("fp16",), "trt_rtx": ("fp16", "bf16"), "trt": ("fp16", "bf16")}
SYSTEMS = ("eager", "ort", "compiled", "reference", "trt_rtx", "trt")
"""In the order of measuring, should the time not last for all."""


@dataclass(frozen=True)
class Job:
    """One row. ratio 0: everything computed. graph: of an engine, off or on."""

    model: str
    ratio: float
    system: str
    precision: str
    batch: int
    graph: str = ""


class Failure(Exception):
    """A row that has no figures, and why."""


def list_jobs(args: argparse.Namespace) -> Iterator[Job]:
    """The rows that were asked for."""
    graphs = ("off", "on") if args.device == "cuda" else ("",)
    for ratio in args.ratios:
        for system in [system for system in SYSTEMS if system in args.systems]:
            for model in args.cases:
                for batch in (1,) if args.smoke else BATCHES[model]:
                    if system in ("eager", "compiled"):
                        if ratio == args.ratios[0]:
                            yield Job(model, 0.0, system, "bf16", batch)
                    elif system == "reference":
                        yield Job(model, ratio, system, "fp32", batch)
                    else:
                        for precision in ("fp32",) if args.smoke else PRECISIONS[system]:
                            yield from (Job(model, ratio, system, precision, batch, graph) for graph in graphs)


class Measurer:
    """Makes what rows need in a folder, once, and measures them. Failures of a build are those of all its rows."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args, self._folder = args, folder
        self._failed: dict[Path, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def measure(self, job: Job) -> dict[str, Any]:
        """The row's figures. Raises Failure."""
        args = self._args
        if job.system in PRECISIONS:
            return self._measure_engine(job)
        # all-compute rows take the sampler's number of steps from the plan that is made anyway
        plan = self._plan(job.model, job.ratio or args.ratios[0])
        given = {
            **asdict(job), "source": CASES[job.model][1], "plan": str(plan), "config": transformer_config(job.model),
            "steps": _steps(plan), "device": args.device, "rounds": args.rounds,
        }  # fmt: skip
        script = Path(__file__).with_name("gpu_eager.py")
        found = self._run([sys.executable, str(script), json.dumps(given)])
        return {"steps": given["steps"], **json.loads(found.splitlines()[-1])}

    def _measure_engine(self, job: Job) -> dict[str, Any]:
        plan, bundle = self._plan(job.model, job.ratio), self._bundle(job)
        command = [*CLI, "bench", str(bundle), "--batch", str(job.batch), "--rounds", str(self._args.rounds)]
        command += ["--device", self._args.device, *(["--cuda-graph", job.graph] if job.graph else []), "--json"]
        found = json.loads(self._run(command))
        made = json.loads(_beside(bundle, ".json").read_text())
        return {"steps": _steps(plan), "build_s": made["build_s"], **found}

    def _plan(self, model: str, ratio: float) -> Path:
        path, sensitivity = self._folder / f"{model}-{ratio:g}.plan.json", self._folder / f"{model}.map.safetensors"
        command = [*CLI, "plan", *CASES[model], "--map", sensitivity.name, "--flops-ratio", f"{ratio:g}"]

        def make() -> None:
            if not sensitivity.exists():
                write_map(model, str(sensitivity))
            self._run([*command, "--planner", "soda", "--out", path.name])

        return self._make(path, make)

    def _bundle(self, job: Job) -> Path:
        path = self._folder / f"{job.model}-x{job.ratio:g}-{job.system}-{job.precision}"
        options = [] if job.system == "ort" else ["--target", "current", "--max-batch", str(max(BATCHES[job.model]))]
        plan = self._plan(job.model, job.ratio)
        command = [*CLI, "build", *CASES[job.model], "--plan", plan.name, "--backend", job.system, "--precision",
                   job.precision, "--without", "text-encoder", "--without", "decoder", *options]  # fmt: skip

        def make() -> None:
            started = time.perf_counter()
            self._run([*command, "--out", path.name])
            made = {"build_s": time.perf_counter() - started, "command": command[len(CLI) :]}
            _beside(path, ".json").write_text(json.dumps(made))

        self._make(_beside(path, ".json"), make)
        return path

    def _make(self, path: Path, make: Callable[[], None]) -> Path:
        """What `make` leaves at `path`, made once."""
        if path in self._failed:
            raise Failure(self._failed[path])
        if not path.exists():
            try:
                make()
            except Failure as error:
                self._failed[path] = str(error)
                raise
        return path

    def _run(self, command: list[str]) -> str:
        """A child's stdout; it and its own children are ended when the row's time is over. Raises Failure."""
        child = subprocess.Popen(
            command, cwd=self._folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            out, said = child.communicate(timeout=60 * self._args.row_minutes)
        except BaseException as stop:  # Ctrl-C, too, must leave nothing running on the GPU
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            if isinstance(stop, subprocess.TimeoutExpired):
                raise Failure(f"took more than {self._args.row_minutes:g} minutes") from None
            raise
        if child.returncode:
            last = [line for line in said.splitlines() if line.strip()][-1:] or [f"exit code {child.returncode}"]
            raise Failure(" ".join(last[0].split())[:300])
        return out


class Record:
    """The rows so far, in PATH.json and PATH.md; failed ones are measured again when the script goes on."""

    def __init__(self, path: Path, machine: dict[str, str]) -> None:
        self._json, self._table, self.machine = _beside(path, ".json"), _beside(path, ".md"), machine
        self.rows: list[dict[str, Any]] = []
        if self._json.exists():
            known = json.loads(self._json.read_text())
            if known["machine"] != machine:
                sys.exit(f"{self._json} is of {known['machine']}, this is {machine}; name another file with --out")
            self.rows = known["rows"]

    def has(self, job: Job) -> bool:
        """Whether the row is there, with figures."""
        return any(_job_of(row) == asdict(job) and "why_not" not in row for row in self.rows)

    def add(self, job: Job, found: dict[str, Any]) -> None:
        """Put the row in place of an earlier one, and write both files."""
        self.rows = [row for row in self.rows if _job_of(row) != asdict(job)]
        self.rows.append({**found, **asdict(job)})
        for path, text in (
            (self._table, table_of(self.rows, self.machine)),
            (self._json, json.dumps({"machine": self.machine, "rows": self.rows}, indent=1) + "\n"),
        ):
            scratch = _beside(path, ".tmp")
            scratch.write_text(text)
            scratch.replace(path)


def _job_of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in Job.__dataclass_fields__}


def _beside(path: Path, ending: str) -> Path:
    """Not with_suffix: names have dots in them."""
    return path.with_name(path.name + ending)


def _steps(plan: Path) -> int:
    return int(json.loads(plan.read_text())["sampler"]["steps"])


def transformer_config(model: str) -> dict[str, Any]:
    """diffusers' configuration of one of CASES."""
    from soda_export.models.published import read_published

    path = Path(CASES[model][1]) / "transformer" / "config.json"
    return dict(json.loads(path.read_text()) if path.is_file() else read_published(model)["transformer"])


def write_small(folder: Path) -> Path:
    """DiT-XL/2's configuration with two narrow layers, as a folder without weights."""
    from soda_export.models.published import read_published

    configs = read_published("dit-xl-2-256")
    small = {**configs["transformer"], "num_layers": 2, "num_attention_heads": 2, "sample_size": 8}
    for part, name, config in (("transformer", "config.json", small),
                               ("scheduler", "scheduler_config.json", configs["scheduler"])):  # fmt: skip
        path = folder / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
    return folder


def describe(device: str) -> dict[str, str]:
    """What the figures belong to. Ends the script where there is no such device."""
    import torch

    if device == "cpu":
        return {"device": platform.processor() or "CPU", "torch": torch.__version__}
    if not torch.cuda.is_available():
        sys.exit("this torch sees no GPU; --device cpu --smoke tries the script")
    properties = torch.cuda.get_device_properties(0)
    name = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, sm{properties.major}{properties.minor}"
    return {"device": name, "torch": torch.__version__}


def measure_all(args: argparse.Namespace, record: Record, measurer: Measurer) -> None:
    """Every row that is missing, until the time is over."""
    jobs = [job for job in list_jobs(args) if not record.has(job)]
    started = time.monotonic()
    for number, job in enumerate(jobs, start=1):
        if args.minutes and time.monotonic() - started > 60 * args.minutes:
            print(f"--minutes {args.minutes:g} are over; {len(jobs) - number + 1} rows are left for another run")
            return
        began = time.monotonic()
        try:
            found = measurer.measure(job)
        except Failure as error:
            found = {"why_not": str(error)}
        except Exception as error:  # of one row: a library that is missing, a figure that is not there
            found = {"why_not": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        record.add(job, found)
        what = found.get("why_not") or f"{found.get('latency_s', found['baseline_latency_s']):.4f} s"
        print(f"[{number}/{len(jobs)}, {time.monotonic() - began:.0f} s] {job}: {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no row after that; 0: measure all of them")
    parser.add_argument("--row-minutes", type=float, default=10.0, help="most that one build or measurement may take")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu", help="OUT.json, OUT.md; a run goes on from them")
    parser.add_argument("--work", type=Path, default=Path("build/gpu"), help="bundles, kept for the next run")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--smoke", action="store_true", help="a small model, and nothing is kept")
    args = parser.parse_args()
    machine = describe(args.device)
    if not args.smoke:
        for model in args.cases:
            CASES.setdefault(model, ["--model", model, "--random-weights", "0"])
        measure_all(args, Record(args.out, machine), Measurer(args, args.work.resolve()))
        return
    scratch = Path(tempfile.mkdtemp())
    try:
        args.cases = args.cases[:1]
        CASES[args.cases[0]] = ["--model", str(write_small(scratch / "small")), "--random-weights", "0"]
        measure_all(args, Record(scratch / "gpu", machine), Measurer(args, scratch / "work"))
        print((scratch / "gpu.md").read_text())
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
