"""The product, whole: profile, plan, lower, export, compile, pack, each stage kept in a file of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import msgspec
import numpy as np
import torch

from ..compile.options import EngineOptions
from ..eager.model import EagerModel
from ..errors import PlanError, UsageError
from ..machine import keep_freed_memory
from ..models.flops import full_step_flops
from ..models.identity import SamplerIdentity, identify, rows_per_sample
from ..models.load import LoadedModel, ModelRequest, load_model
from ..options import BundleOptions, ProfileOptions, SamplerOptions
from ..plan.plan import MAX_GUIDANCE, Plan, check_fits, describe_sampler, read_plan
from ..plan.prior import uniform_map
from ..plan.rescale import rescale_plan
from ..plan.schedule import Schedule
from ..plan.sensitivity import SensitivityMap, map_bytes, read_map
from ..policy.adaptive import AdaptivePolicy
from ..profile.profile import ProfileSettings, estimate_profile, profile_denoiser
from ..profile.resample import resample_map
from ..sampler import Fill, SamplerTable, check_fills, check_skips, freeze_sampler, hold, with_memory
from .assemble import Built, assemble_bundle
from .calibration import Calibration
from .components import ComponentMaker
from .stages import StageStore

log = logging.getLogger(__name__)
_MOST_SAMPLES = 100_000
_FLOPS_A_THREAD = 1e8  # of a step of one sample; batches of tens are usual (docs/decisions/0012)
Progress = Callable[[str, int, int], None]
"""progress(stage, done, total)"""


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
        keep_freed_memory()
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

    def load_plan(self, path: Path, hashes: Collection[str] = ()) -> Plan:
        """Read a plan that someone wrote, and refuse it if it is for something else.

        hashes: of further sizes of the model, whose plans are carried over, as those of its own size are.
        """
        plan = read_plan(path)
        if plan.model.hash in (self.loaded.own_hash, *hashes):
            plan = self.rescaled(plan, hashes)
        check_fits(plan, self.loaded.spec, self.identity, self.options.guidance)
        try:
            self.sampler.with_coefficients(plan.coefficients)
            return self.completed(plan)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None

    def rescaled(self, plan: Plan, hashes: Collection[str]) -> Plan:
        """A plan of another size of the model, one of `hashes` or its own, for this one. Raises PlanError."""
        return rescale_plan(plan, self.loaded.spec, (self.loaded.own_hash, *hashes))

    def carried(self, plan: Plan, source: Workbench) -> Plan:
        """A plan of `source`, another size, for this one; without coefficients that were fitted at other timesteps."""
        made = self.rescaled(plan, [source.loaded.spec.hash])
        if made.coefficients is None or self.sampler.timesteps == source.sampler.timesteps:
            return made
        log.warning(
            "plan: timesteps depend on the size, so the coefficients fitted at %dx%d are left out at %dx%d; give that "
            "size a --plan, or --fit-sampler always", *source.loaded.size, *self.loaded.size,
        )  # fmt: skip
        return replace(made, coefficients=None)

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
        return assemble_bundle([(self, plan)], backend, out, options, engine_options, [policy] if policy else ())


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
