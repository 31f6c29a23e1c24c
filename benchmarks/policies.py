"""What deciding per sample is worth, and what it costs: `python benchmarks/policies.py MODEL [--controlnet NAME] ...`.

All on seeds and prompts that calibration never saw, at SADA's own number of calls (or --calls): SADA as released,
misfit, misfit's decisions given to other samples, EasyCache, the frozen `skip-fitted`, and the same sampler with fewer
steps. Each row: mean, least and most calls; RMSE with its interval, median and worst sample; PSNR; what the model's
judge says. With --cost, a bundle with misfit is built and an all-compute run with signals is timed against one without,
in turn. With --engines, bundles with SADA and with misfit are played beside the eager runs: whether every decision is
the same, and the largest relative difference of a sample's latents.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from soda_runtime import Noise, Session
from soda_runtime.policy import FULL
from soda_runtime.request import example_request

from soda_export.bench.doctor import describe_machine
from soda_export.eager.adaptive import run_policy
from soda_export.eager.conditions import text_ports
from soda_export.eager.hints import hint_ports
from soda_export.eager.sampling import Sampling
from soda_export.eval.compare import Comparison, compare_samples
from soda_export.eval.evaluate import PARTS
from soda_export.eval.judges import find_judge
from soda_export.eval.sample import Drawn, ModelSamples, SampleSource, compute_everything
from soda_export.lower.lower import lower_plan
from soda_export.models.load import ModelRequest, load_model
from soda_export.options import BundleOptions, ProfileOptions, SamplerRequest, defaults_for
from soda_export.plan.plan import Plan
from soda_export.plan.solve import PlanOptions
from soda_export.policy.adaptive import AdaptivePolicy
from soda_export.policy.catalog import PolicyName
from soda_export.policy.options import PolicyOptions
from soda_export.search.measuring import make_policy
from soda_export.search.planning import make_plan_for
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

FIRST_SEED, BATCH = 1_000_000, 32


class Case:
    """One model with its sampler, and what is compared on it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.request = ModelRequest(args.model, controlnet=tuple(args.controlnet))
        self.loaded, self.args = load_model(self.request, PARTS), args
        options = SamplerRequest(sampler=args.sampler, steps=args.steps).resolve(*defaults_for(self.loaded))
        self.store = StageStore(args.store)
        self.bench = Workbench(self.loaded, options, self.store, lambda *_: None)
        self.samples, self.seeds = ModelSamples(self.bench), range(FIRST_SEED, FIRST_SEED + args.samples)
        spec = self.loaded.spec
        self.judge = find_judge(spec.name, spec.latent_shape, is_steered=bool(hint_ports(spec)))
        self.reference = self.samples.of_reference(self.seeds, BATCH, lambda *_: None)

    def policy(self, name: PolicyName, calls: float = 0.0) -> AdaptivePolicy:
        options = PolicyOptions(name, calls=calls, policy_samples=self.args.policy_samples)
        return make_policy(self.bench, options, ProfileOptions(samples=self.args.policy_samples))

    def fewer_steps(self, steps: int) -> SampleSource:
        bench = Workbench(self.loaded, replace(self.bench.options, steps=steps), self.store, lambda *_: None)
        return ModelSamples(bench).of_table(lower_plan(compute_everything(bench), self.loaded.spec))

    def frozen(self, calls: int) -> Plan:
        options = PlanOptions(planner="skip-fitted", budget=calls, plan_samples=max(1, self.args.policy_samples // 4))
        return make_plan_for(self.bench, None, options, ProfileOptions(samples=self.args.policy_samples)).plan

    def row(self, name: str, source: SampleSource, calls: float | None = None) -> dict[str, Any]:
        """Scores of what a source draws. calls: of every sample, where the source does not say."""
        counted = _Counting(source)
        compared = compare_samples(counted, self.reference, self.seeds, BATCH, judge=self.judge)
        made = _figures(name, compared) | _calls(counted.calls or [calls or 0.0])
        print(json.dumps(made), flush=True)
        return made


class Shuffled:
    """A policy's own decisions, each given to the next sample of the batch."""

    def __init__(self, samples: ModelSamples, policy: AdaptivePolicy) -> None:
        self._samples, self._policy = samples, policy

    def draw(self, seeds: range) -> Drawn:
        sampling = self._samples.sampling(seeds)
        decisions = np.roll(run_policy(sampling, self._policy).decisions, 1, axis=1)
        result = run_policy(sampling, self._policy, decisions=decisions)
        latents = result.latents.cpu().numpy()
        return Drawn(latents, self._samples.images(latents), self._samples.prompts_of(seeds), result.calls)


class _Counting:
    def __init__(self, source: SampleSource) -> None:
        self._source = source
        self.calls: list[float] = []

    def draw(self, seeds: range) -> Drawn:
        drawn = self._source.draw(seeds)
        self.calls += [] if drawn.calls is None else drawn.calls.tolist()
        return drawn


def _figures(name: str, compared: Comparison) -> dict[str, Any]:
    each = np.sqrt(compared.errors)
    found = {"row": name, "median": float(np.median(each)), "worst": float(each.max())}
    scores = msgspec.to_builtins(compared.scores)
    return found | {key: value for key, value in scores.items() if value is not None and key != "calls"}


def _calls(calls: list[float]) -> dict[str, float]:
    return {"calls": float(np.mean(calls)), "least_calls": float(min(calls)), "most_calls": float(max(calls))}


def measure_fidelity(case: Case) -> list[dict[str, Any]]:
    """Every row, SADA's first: its calls are what the others get."""
    sada = case.policy("sada")
    rows = [case.row("sada", case.samples.of_policy(sada))]
    calls = case.args.calls or rows[0]["calls"]
    rows.append(case.row("sada-paper", case.samples.of_policy(case.policy("sada-paper"))))
    misfit = case.policy("misfit", calls)
    rows.append(case.row("misfit", case.samples.of_policy(misfit)))
    rows.append(case.row("misfit, decisions of other samples", Shuffled(case.samples, misfit)))
    rows.append(case.row("easycache", case.samples.of_policy(case.policy("easycache", calls))))
    whole = round(calls)
    table = lower_plan(case.frozen(whole), case.loaded.spec)
    rows.append(case.row("skip-fitted", case.samples.of_table(table), whole))
    rows.append(case.row("fewer steps", case.fewer_steps(whole), whole))
    return rows


def measure_cost(case: Case) -> dict[str, float]:
    """Seconds of an all-compute run whose signals are computed and read after every step, of the same run without, and
    of one that follows the policy; medians, batch 1, ONNX Runtime."""
    steps = case.bench.sampler.steps
    policy = case.policy("misfit", case.args.calls or 0.5 * steps)
    unmet = tuple(replace(rule, action=1, always=False, threshold=-1.0) for rule in policy.rules)
    seconds: dict[str, list[float]] = {"full": [], "full, deciding": [], "adaptive": []}
    plan, places = case.frozen(round(policy.calls)), (case.args.store / "cost-never", case.args.store / "cost-policy")
    for place, each in zip(places, (replace(policy, rules=unmet), policy), strict=True):
        case.bench.build(plan, "ort", place, policy=each)
    never, deciding = map(Session.open, places)
    request = example_request(never.bundle, 1)
    for number in range(case.args.rounds + 1):
        for name, session, play in (
            ("full", never, "full"), ("full, deciding", never, "adaptive"), ("adaptive", deciding, "adaptive")
        ):  # fmt: skip
            session.start(**request, seed=number, policy=play)  # type: ignore[arg-type]
            started = time.perf_counter()
            session.run_steps()
            if number:
                seconds[name].append(time.perf_counter() - started)
        assert (never.decisions == FULL).all()
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["full, deciding"], seconds["full"], strict=True)]
    calls = (deciding.decisions == FULL).sum()
    return medians | {
        "cost_of_deciding": statistics.median(ratios) - 1.0, "speedup": medians["full"] / medians["adaptive"],
        "calls_ratio": steps / float(calls),
    }  # fmt: skip


def measure_engines(case: Case) -> dict[str, Any]:
    """Decisions and latents of a bundle on ONNX Runtime against the eager run, for SADA and for misfit. Where a
    decision differs, latents are those of the eager run's decisions replayed."""
    steps, seeds = case.bench.sampler.steps, case.seeds[: case.args.samples]
    result: dict[str, Any] = {}
    names: tuple[PolicyName, ...] = ("sada", "misfit")
    for name in names:
        policy = case.policy(name, 0.0 if name == "sada" else case.args.calls or 0.5 * steps)
        place = case.args.store / f"engines-{name}"
        plan = compute_everything(case.bench)
        case.bench.build(plan, "ort", place, BundleOptions(without=("text-encoder", "decoder")), policy=policy)
        sampling = case.samples.sampling(seeds)
        eager = run_policy(sampling, policy)
        session = Session.open(place)
        inputs, negative = _halves(sampling)
        request: dict[str, Any] = {"inputs": inputs, "negative_inputs": negative}
        request["noise"] = Noise(sampling.noise.numpy())
        found = session.generate(**request)
        differ = (session.decisions != eager.decisions).any(axis=0)
        if differ.any():
            found = session.generate(**request, decisions=eager.decisions)
        expected = eager.latents.numpy()
        size = (len(expected), -1)
        errors = np.linalg.norm((found - expected).reshape(size), axis=1)
        relative = errors / np.linalg.norm(expected.reshape(size), axis=1)
        result[name] = {
            "samples": len(seeds), "samples_that_decide_otherwise": int(differ.sum()),
            "largest_relative_difference": float(relative.max()), "calls": float(eager.calls.mean()),
        }  # fmt: skip
        print(json.dumps({name: result[name]}), flush=True)
    return result


def _halves(sampling: Sampling) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of ports for the conditional rows, and those of the unconditional ones that a request may give."""
    inputs: dict[str, Any] = {}
    negative: dict[str, Any] = {}
    count = len(sampling.noise)
    texts = {port.name for port in text_ports(sampling.model.spec)}
    of_rows = {port.name for port in sampling.model.spec.ports if port.kind == "row"}  # which no request gives
    for name, values in sampling.inputs.items():
        if name in of_rows:
            continue
        inputs[name] = values[:count].numpy()
        if sampling.rows == 2 and name in texts:
            negative[name] = values[count:].numpy()
    return inputs, negative


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--controlnet", action="append", default=[])
    parser.add_argument("--sampler", default=None)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--calls", type=float, default=0.0, help="mean calls; default those of SADA")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--policy-samples", type=int, default=64)
    parser.add_argument("--cost", action="store_true", help="measure the cost of deciding alone")
    parser.add_argument("--engines", action="store_true", help="compare engines with eager runs alone")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--store", type=Path, default=Path("engines/.work"))
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    case = Case(args)
    result: dict[str, Any] = {
        "model": args.model, "controlnet": args.controlnet, "sampler": case.bench.options.sampler, "steps": args.steps,
        "guidance": case.bench.options.guidance, "samples": args.samples, "policy_samples": args.policy_samples,
        "processor": describe_machine().processor,
    }  # fmt: skip
    if args.cost:
        result["cost"] = measure_cost(case)
        print(json.dumps(result["cost"]))
    elif args.engines:
        result["engines"] = measure_engines(case)
    else:
        result["rows"] = measure_fidelity(case)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
