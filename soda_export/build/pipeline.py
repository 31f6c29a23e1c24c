"""The product, whole: profile, plan, lower, export, compile, pack, each stage kept in a file of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from soda_runtime.engine_index import INDEX_NAME
from soda_runtime.policy import POLICY_NAME

from ..compile import AHEAD_OF_TIME, check_precision
from ..compile.options import EngineOptions
from ..eager.model import EagerModel
from ..errors import PlanError, UsageError
from ..export.export import export_programs
from ..export.index import read_index
from ..export.policy import export_policy
from ..lower.lower import lower_plan
from ..lower.program import ProgramTable, read_table, table_text
from ..models.flops import full_step_flops
from ..models.identity import SamplerIdentity, identify, rows_per_sample
from ..models.load import LoadedModel, ModelRequest, load_model
from ..models.precision import COMPUTE, Compute
from ..models.record import RECORD_NAME, record_bytes
from ..models.spec import ModelSpec
from ..options import BundleOptions, ProfileOptions, SamplerOptions
from ..plan.plan import MAX_GUIDANCE, Plan, check_fits, describe_sampler, plan_text, read_plan
from ..plan.prior import uniform_map
from ..plan.schedule import Schedule
from ..plan.sensitivity import SensitivityMap, map_bytes, read_map
from ..policy.adaptive import PROGRAM_FILE, TABLES_FILE, AdaptivePolicy
from ..profile.profile import ProfileSettings, estimate_profile, profile_denoiser
from ..profile.resample import resample_map
from ..sampler import Fill, SamplerTable, check_fills, check_skips, freeze_sampler, hold, with_memory
from .calibration import Calibration
from .components import ComponentMaker
from .engines import LAYERS_NAME, graph_path, make_engines, write_engine_index
from .pack import pack_bundle
from .stages import StageStore

log = logging.getLogger(__name__)
_MOST_SAMPLES = 100_000
_FLOPS_A_THREAD = 1e8  # of a step of one sample; batches of tens are usual (docs/decisions/0012)
Progress = Callable[[str, int, int], None]
"""progress(stage, done, total)"""


@dataclass(frozen=True)
class Built:
    """What a build made. reused: stages that were taken from their files."""

    out: Path
    plan: Plan
    table: ProgramTable
    reused: tuple[str, ...]


class Workbench:
    """One model with one frozen sampler, and the stages that lead from it to a bundle."""

    def __init__(
        self, model: str | ModelRequest | LoadedModel, options: SamplerOptions, store: StageStore, progress: Progress
    ) -> None:
        self.loaded: LoadedModel = model if isinstance(model, LoadedModel) else load_model(model)
        self.options, self.store, self.progress = options, store, progress
        spec = self.loaded.spec
        self.sampler: SamplerTable = self._freeze(options.steps)
        if options.guided_channels > spec.latent_shape[0]:
            raise UsageError(f"--guidance-channels {options.guided_channels}: the model has {spec.latent_shape[0]}")
        self.identity = SamplerIdentity(options.sampler, options.steps, options.eta, options.guided_channels)
        self.components = ComponentMaker(self.loaded, store, progress, self.rows == 2)
        if not 0.0 <= options.guidance <= MAX_GUIDANCE:
            raise UsageError(f"--guidance {options.guidance:g}: must be within 0 .. {MAX_GUIDANCE:g}; 1 turns it off")
        if options.guidance > 1.0 and self.loaded.family.guidance != "rows":
            raise UsageError(
                f"--guidance {options.guidance:g}: a {self.loaded.family.name} model has guidance built in; leave it "
                "out, and give requests their own where the model takes one"
            )

    def _freeze(self, steps: int) -> SamplerTable:
        spec = self.loaded.spec
        return freeze_sampler(
            self.options.sampler, self.loaded.scheduler_config, steps, self.options.eta,
            learned_variance=spec.prediction_shape[0] == 2 * spec.latent_shape[0],
        )  # fmt: skip

    @cached_property
    def eager(self) -> EagerModel:
        """The unmodified module with its weights, loaded when it is first asked for.

        torch gets a thread for each 0.1 GFLOPs of a step, no more than it has: a small model's operations are over
        before many threads have begun.
        """
        loaded = self.loaded
        threads = round(full_step_flops(loaded.spec, self.rows) / _FLOPS_A_THREAD)
        torch.set_num_threads(max(1, min(torch.get_num_threads(), threads)))
        return EagerModel(loaded.module, loaded.family, loaded.spec, loaded.constants)

    def profile(self, options: ProfileOptions) -> SensitivityMap:
        """Measure the sensitivity map, or take it from its file."""
        if not 1 <= options.samples <= _MOST_SAMPLES:
            raise UsageError(f"--samples {options.samples}: must be within 1 .. {_MOST_SAMPLES}; 32 are usual")
        if not 0.0 < options.profile_memory < np.inf:
            raise UsageError(f"--profile-memory {options.profile_memory:g}: must be a number of GB above 0")
        calibration = self.calibration(options)
        inputs = {
            "model": self.loaded.spec, "scheduler": self.loaded.scheduler_config, "sampler": self.options,
            "profile": replace(options, prompts=None, profile_embeds=None, hints=None),  # the key has what they hold
            **calibration.key,
        }  # fmt: skip
        unfinished = self.store.resumable("profile", inputs)

        settings = ProfileSettings(
            self.identity, self.options.guidance, options.samples, options.seed, options.metric, options.token_score,
            options.profile_precision, int(options.profile_memory * 1e9),
        )  # fmt: skip

        def make(folder: Path) -> None:
            conditions = calibration.conditions()
            cost = estimate_profile(self.eager, self.sampler, conditions, settings)
            log.info("profile: about %s and %.1f GB", duration(cost.seconds), cost.bytes / 1e9)
            sensitivity = profile_denoiser(
                self.eager, self.sampler, conditions, settings, partial=unfinished / "sums.npz",
                progress=partial(self.progress, "profile"),
            )  # fmt: skip
            (folder / "map.safetensors").write_bytes(map_bytes(sensitivity))

        folder = self.store.produce("map", inputs, make)
        self.store.discard(unfinished)
        return read_map(folder / "map.safetensors")

    def calibration(self, options: ProfileOptions) -> Calibration:
        """What samples are conditioned on."""
        return Calibration(self.loaded, self.components, self.rows, options)

    def fit_map(self, sensitivity: SensitivityMap) -> SensitivityMap:
        """The map as it is, or read at this number of steps; refuses one of another sampler or guidance (planning
        checks the model)."""
        info = sensitivity.info
        if msgspec.structs.replace(info.sampler, steps=self.options.steps) == self.identity != info.sampler:
            log.warning(
                "map: measured at %d steps, read at %d by the noise level; --samples on this number of steps is surer",
                info.sampler.steps, self.options.steps,
            )  # fmt: skip
            measured = self._freeze(info.sampler.steps)
            sensitivity = resample_map(sensitivity, measured.timesteps, self.sampler.timesteps)
            info = sensitivity.info
        if info.sampler != self.identity or info.guidance != self.options.guidance:
            raise PlanError(
                f"the map is for {describe_sampler(info.sampler)} and guidance {info.guidance:g}, not "
                f"{describe_sampler(self.identity)} and guidance {self.options.guidance:g}; profile again or pass its "
                "settings"
            )
        return sensitivity

    @property
    def rows(self) -> int:
        """Rows of the model's batch for each sample: 2 with classifier-free guidance, else 1."""
        return rows_per_sample(self.options.guidance)

    def plan_of(self, schedule: Schedule, made_by: str) -> Plan:
        """A schedule as a plan for this model and sampler."""
        spec = self.loaded.spec
        return Plan(identify(spec), self.identity, self.options.guidance, schedule, made_by=made_by)

    def uniform_map(self) -> SensitivityMap:
        """A map that was not profiled: every step and site alike."""
        return uniform_map(self.loaded.spec, self.identity, self.options.steps, self.options.guidance)

    def load_plan(self, path: Path) -> Plan:
        """Read a plan that someone wrote, and refuse it if it is for something else."""
        plan = read_plan(path)
        check_fits(plan, self.loaded.spec, self.identity, self.options.guidance)
        try:
            self.sampler.with_coefficients(plan.coefficients)
            return self.completed(plan)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None

    def completed(self, plan: Plan, fill: Fill = hold) -> Plan:
        """The plan with coefficients for the steps that it skips, where it brings none. Raises PlanError where this
        sampler cannot skip them, or the plan's coefficients ask for a prediction there."""
        skips = plan.schedule.skips
        if not any(skips):
            return plan
        check_skips(self.sampler, skips)
        if plan.coefficients is not None:
            check_fills(self.sampler.with_coefficients(plan.coefficients), skips)
            return plan
        renews = plan.schedule.renews(self.loaded.spec, self.rows)
        return replace(plan, coefficients=with_memory(self.sampler, renews, skips, fill).coefficients)

    def build(
        self, plan: Plan, backend: str, out: Path, options: BundleOptions = BundleOptions(),
        engine_options: EngineOptions = EngineOptions(), policy: AdaptivePolicy | None = None,
    ) -> Built:  # fmt: skip
        """Lower, export, compile and pack a plan that fits this model. policy: what requests follow that do not ask for
        the plan. Raises UsageError where the two do not go together."""
        plan = self.completed(plan)
        if policy is not None and options.inpainting:
            raise UsageError("--policy: a bundle that inpaints follows its schedule; leave out one of the two")
        spec, text, precision = self.loaded.spec, plan_text(plan), options.precision
        check_precision(backend, precision)
        compute = COMPUTE[precision]
        common = {"model": spec, "scheduler": self.loaded.scheduler_config, "precision": precision}
        lowered = self.store.produce(
            "programs", {**common, "plan": text.decode(), **({"skip": True} if policy else {})},
            lambda folder: _write_programs(folder, plan, text, spec, compute, policy is not None),
        )  # fmt: skip
        table = read_table((lowered / "programs.json").read_bytes(), str(lowered / "programs.json"))
        # what follows depends on the decisions, not on who made them
        if options.inpainting:
            common["inpainting"] = True
        least_state = 1 if policy is None else policy.state_size
        if policy is not None:
            common["least_state"] = least_state
        common["table"] = msgspec.structs.replace(table, plan_hash="")
        exported = self.store.produce(
            # exports kept from before they had tables of starts, or named the prediction, are not taken
            "export", {**common, "starts": True, "prediction": True},
            lambda folder: export_programs(
                self.loaded, self.sampler, table, precision, folder, partial(self.progress, "export"),
                inpainting=options.inpainting, least_state=least_state,
            ),
        )  # fmt: skip
        index = read_index(exported)
        engines = make_engines(self.store, backend, exported, index.graphs, engine_options, common)
        components = self.components.make(backend, compute, options.without, engine_options)
        extra = [lowered / "plan.json", lowered / "programs.json", self._record()]
        made = [*(engines / name for name in index.graphs), *components.engines]
        if policy is not None:
            rules = self._export_policy(policy, table, index.state_size)
            compiled = make_engines(self.store, backend, rules, (PROGRAM_FILE,), engine_options, {"graph": rules.name})
            made.append(compiled / PROGRAM_FILE)
            extra += [rules / POLICY_NAME, rules / TABLES_FILE, compiled / PROGRAM_FILE]
        if backend in AHEAD_OF_TIME:
            extra += self._describe_engines(made, compute)
            extra += [graph_path(engine.parent, engine.name, backend) for engine in made]
        pack_bundle(
            spec, table, index, components, backend, exported, engines, extra, self.store.root, out,
            partial(self.progress, "pack"),
        )  # fmt: skip
        return Built(out, plan, table, tuple(self.store.reused))

    def _record(self) -> Path:
        """What drop-ins for the model's pipeline read (docs/diffusers.md)."""
        text = record_bytes(self.loaded)
        made = self.store.produce(
            "record", {"text": text.decode()}, lambda folder: (folder / RECORD_NAME).write_bytes(text)
        )
        return made / RECORD_NAME

    def _export_policy(self, policy: AdaptivePolicy, table: ProgramTable, state_size: int) -> Path:
        """policy.json, its tables and the graph of its signals."""
        programs = {"baseline": table.baseline, "count": len(table.programs), "forecasts": table.num_forecasts}
        inputs = {"policy": policy.content, "state_size": state_size, "latents": self.loaded.spec.latent_shape}
        return self.store.produce(
            "policy", {**inputs, "programs": programs},
            lambda folder: export_policy(policy, table, state_size, self.loaded.spec.latent_shape, folder),
        )  # fmt: skip

    def _describe_engines(self, engines: list[Path], precision: Compute) -> list[Path]:
        """engines.json, and what the engines are made of."""
        model = self.loaded.spec.name
        inputs = {"engines": [str(engine) for engine in engines], "model": model}
        folder = self.store.produce(
            "engine-index", {**inputs, "precision": precision},
            lambda folder: write_engine_index(engines, model, precision, folder),
        )  # fmt: skip
        return [folder / LAYERS_NAME, folder / INDEX_NAME]


def _write_programs(
    folder: Path, plan: Plan, text: bytes, spec: ModelSpec, precision: Compute, with_skip: bool
) -> None:
    table = lower_plan(plan, spec, precision, with_skip)
    (folder / "plan.json").write_bytes(text)
    (folder / "programs.json").write_bytes(table_text(table))
    log.info(
        "programs: %d for %d steps, FLOPs ratio %.3f, arena %.2f MB a sample (lower bound %.2f, naive %.2f)",
        table.num_engines, len(table.step_programs), table.flops_ratio, table.arena.bytes / 1e6,
        table.arena.lower_bound_bytes / 1e6, table.arena.naive_bytes / 1e6,
    )  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
