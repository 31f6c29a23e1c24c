"""Evaluate bundles and plans: a row of scores for each, on seeds that nobody planned with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from soda_runtime import Bundle
from soda_runtime.manifest import HintPort

from ..eager.hints import hint_ports
from ..errors import PlanError, UsageError
from ..export.index import sized_name
from ..lower.lower import lower_plan
from ..models.load import DEFAULT_PARTS, TEXT_PARTS, LoadedModel, ModelRequest, builtin_models, load_model
from ..models.request import parse_size
from ..networks import load_networks
from ..options import PLAN_SEED, NetworkOptions, ProfileOptions, SamplerOptions, SamplerRequest
from ..plan.plan import Plan, check_fits, read_plan
from ..workbench.pack import PLAN_NAME
from ..workbench.pipeline import Progress, Workbench
from ..workbench.stages import StageStore
from .compare import Comparison, Scores, compare_samples
from .judges import Judge, find_judge
from .options import MOST_BATCH, EvalOptions
from .sample import BundleSamples, ModelSamples, SampleSource, takes_embeddings_alone
from .seeds import parse_seeds

log = logging.getLogger(__name__)
PARTS = (*DEFAULT_PARTS, *TEXT_PARTS)


class EvalRow(msgspec.Struct, frozen=True):
    """One target's scores. flops_ratio: FLOPs of computing everything / FLOPs of the target."""

    target: str
    samples: int
    flops_ratio: float
    scores: Scores

    def flat(self) -> dict[str, Any]:
        """The row as `--json` prints it."""
        values = {"target": self.target, "samples": self.samples, "flops_ratio": self.flops_ratio}
        return {**values, **msgspec.to_builtins(self.scores)}


class Evaluator:
    """Evaluates targets one after another; a model is loaded, and its unaccelerated samples drawn, once for all."""

    def __init__(
        self, options: EvalOptions, store: StageStore, progress: Progress, *, model: ModelRequest | None = None,
        networks: NetworkOptions = NetworkOptions(),
    ) -> None:  # fmt: skip
        """model: whose the plans are; default the built-in one that a plan names."""
        self._seeds, self._batch = parse_seeds(options.seeds), options.batch
        if not 1 <= self._batch <= MOST_BATCH:
            raise UsageError(f"--batch {self._batch}: must be within 1 .. {MOST_BATCH}")
        if any(seed in self._seeds for seed in (ProfileOptions.seed, PLAN_SEED)):
            log.warning("eval: --seeds %s has noise that profiling and planning use by default", options.seeds)
        self._store, self._progress = store, progress
        self._model = replace(model, size=(options.size,)) if model and options.size else model
        self._against, self._hints = options.against, options.hints
        self._size = parse_size(options.size) if options.size else None
        self._networks = load_networks(networks)
        self._loaded: dict[ModelRequest, LoadedModel] = {}
        self._samples: dict[tuple[ModelRequest, SamplerOptions], ModelSamples] = {}

    def evaluate(self, targets: Sequence[Path]) -> list[EvalRow]:
        """Score bundle folders and plan files; what cannot be read is refused before anything is drawn."""
        if not targets:
            raise UsageError("name what to evaluate: bundle folders or plan files")
        opened = [each for target in targets for each in _opened(target, self._size)]
        rows = []
        for target, what in opened:
            if isinstance(what, Bundle):
                target = _named(target, what)
                compared = self._bundle(target, what)
                calls = compared.scores.calls  # of what its policy decided
                ratio = what.manifest.flops_ratio if calls is None else what.manifest.sampler.steps / calls.mean
                rows.append(self._row(target, ratio, compared))
            else:
                rows.append(self._row(target, *self._plan(target, what)))
        return rows

    def _row(self, target: Path, flops_ratio: float, compared: Comparison) -> EvalRow:
        return EvalRow(str(target), len(self._seeds), flops_ratio, compared.scores)

    def _bundle(self, target: Path, bundle: Bundle) -> Comparison:
        spec, samples = bundle.manifest.model, self._samples_of_bundle(target, bundle)
        prompts = samples.prompts if samples else ()
        has_hints = any(isinstance(port, HintPort) for port in bundle.manifest.ports)
        reference: SampleSource = BundleSamples(bundle, accelerated=False, prompts=prompts, hints=self._hints)
        if samples and self._against == "model":
            reference = samples.of_reference(self._seeds, self._batch, self._counter("everything computed"))
        return compare_samples(
            BundleSamples(bundle, accelerated=True, prompts=prompts, hints=self._hints), reference, self._seeds,
            self._batch, networks=self._networks, progress=self._counter(target.name),
            judge=self._judge(spec.name, spec.latent_shape, has_hints),
        )  # fmt: skip

    def _samples_of_bundle(self, target: Path, bundle: Bundle) -> ModelSamples | None:
        """Samples of the bundle's model, where it is asked for: by --against, or by --model, whose prompts it has."""
        if self._model is None and self._against == "itself":
            return None
        size = _size_of(bundle) if len(bundle.sizes) > 1 else ""
        is_first = not size or bundle.size == bundle.sizes[0]
        name = PLAN_NAME if is_first else sized_name(PLAN_NAME, f"-{size}")
        samples = self._samples_of(target, _read(bundle.folder / name), size)
        if self._against == "model" and takes_embeddings_alone(bundle.manifest):
            raise UsageError(f"{target}: has no text encoder, so --against model has no prompts to give it")
        return samples

    def _plan(self, target: Path, plan: Plan) -> tuple[float, Comparison]:
        model = self._samples_of(target, plan)
        spec = model.bench.loaded.spec
        with _naming(target):
            table = lower_plan(plan, spec)
        reference = model.of_reference(self._seeds, self._batch, self._counter("everything computed"))
        return table.flops_ratio, compare_samples(
            model.of_table(table), reference, self._seeds, self._batch, networks=self._networks,
            progress=self._counter(target.name),
            judge=self._judge(spec.name, spec.latent_shape, bool(hint_ports(spec))),
        )  # fmt: skip

    def _judge(self, name: str, latent_shape: tuple[int, ...], has_hints: bool) -> Judge | None:
        return find_judge(name, latent_shape, is_steered=has_hints and self._hints is None)

    def _samples_of(self, target: Path, plan: Plan, size: str = "") -> ModelSamples:
        """Samples of the plan's model with the plan's sampler and guidance; size: of one in a bundle of several. Raises
        PlanError where they do not fit."""
        if self._model is None and plan.model.name not in builtin_models():
            raise UsageError(f"{target}: is a plan for {plan.model.name}; say where that model is with --model")
        request = self._model or ModelRequest(plan.model.name)
        request = replace(request, size=(size,)) if size else request
        options = SamplerRequest().resolve(plan.sampler, plan.guidance)
        if request not in self._loaded:
            self._loaded[request] = load_model(request, PARTS)
        if (request, options) not in self._samples:
            bench = Workbench(self._loaded[request], options, self._store, self._progress)
            self._samples[request, options] = ModelSamples(bench, self._hints)
        samples = self._samples[request, options]
        with _naming(target):
            check_fits(plan, samples.bench.loaded.spec, samples.bench.identity, plan.guidance)
        return samples

    def _counter(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self._progress(stage, done, total)


def _opened(target: Path, size: tuple[int, int] | None) -> list[tuple[Path, Bundle | Plan]]:
    """A plan, or a bundle at that size, else at each of its sizes."""
    if not target.is_dir():
        return [(target, _read(target))]
    bundle = Bundle.open(target)
    if size is not None:
        return [(target, bundle.at(size))]
    return [(target, bundle.at(size)) for size in bundle.sizes] or [(target, bundle)]


def _named(target: Path, bundle: Bundle) -> Path:
    """What a row calls a bundle: of several sizes with this one behind it."""
    return target.with_name(f"{target.name} {_size_of(bundle)}") if len(bundle.sizes) > 1 else target


def _size_of(bundle: Bundle) -> str:
    """512x768"""
    return "{}x{}".format(*bundle.size) if bundle.size else ""


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Say whose plan does not fit."""
    try:
        yield
    except PlanError as error:
        raise PlanError(f"{target}: {error}") from None


def _read(target: Path) -> Plan:
    if not target.exists():
        raise UsageError(f"{target}: no such bundle folder or plan file")
    return read_plan(target)
