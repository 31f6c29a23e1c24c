"""The product, whole: profile, plan, lower, export, compile, pack, each stage kept in a file of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from .compile import compile_engines, library_version
from .errors import PlanError, UsageError
from .export.export import export_programs
from .export.index import read_index
from .lower.lower import lower_plan
from .lower.program import ProgramTable, read_table, table_text
from .models.identity import SamplerIdentity
from .models.load import LoadedModel, load_denoiser
from .options import ProfileOptions, SamplerOptions
from .pack import pack_bundle
from .plan.anchors import anchor_cost, solve_anchors
from .plan.plan import MAX_GUIDANCE, Plan, check_fits, plan_text, read_plan
from .plan.solve import PlanOptions, SolvedPlan, solve_plan
from .profile.profile import profile_denoiser
from .profile.sensitivity import MAX_INTERVAL, SensitivityMap, map_bytes, read_map
from .sampler import SamplerTable, freeze_sampler
from .stages import StageStore

log = logging.getLogger(__name__)
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

    def __init__(self, model: str, options: SamplerOptions, store: StageStore, progress: Progress) -> None:
        self.loaded: LoadedModel = load_denoiser(model)
        self.options, self.store, self.progress = options, store, progress
        self.sampler: SamplerTable = freeze_sampler(
            options.sampler, self.loaded.scheduler_config, options.steps, options.eta
        )
        self.identity = SamplerIdentity(options.sampler, options.steps, options.eta)
        if not 0.0 <= options.guidance <= MAX_GUIDANCE:
            raise UsageError(f"--guidance {options.guidance:g}: must be within 0 .. {MAX_GUIDANCE:g}; 1 turns it off")

    def profile(self, options: ProfileOptions) -> SensitivityMap:
        """Measure the sensitivity map, or take it from its file."""
        if options.samples < 1:
            raise UsageError(f"--samples {options.samples}: at least 1 generation must be profiled")
        if not 0.0 < options.profile_memory < np.inf:
            raise UsageError(f"--profile-memory {options.profile_memory:g}: must be a number of GB above 0")
        inputs = {
            "model": self.loaded.denoiser.spec, "scheduler": self.loaded.scheduler_config, "sampler": self.options,
            "profile": options,
        }  # fmt: skip
        unfinished = self.store.resumable("profile", inputs)

        def make(folder: Path) -> None:
            sensitivity = profile_denoiser(
                self.loaded.denoiser, self.sampler, eta=self.options.eta, guidance=self.options.guidance,
                samples=options.samples, seed=options.seed, metric=options.metric, token_score=options.token_score,
                memory_bytes=int(options.profile_memory * 1e9), partial=unfinished / "sums.npz",
                progress=partial(self.progress, "profile"),
            )  # fmt: skip
            (folder / "map.safetensors").write_bytes(map_bytes(sensitivity))

        folder = self.store.produce("map", inputs, make)
        self.store.discard(unfinished)
        return read_map(folder / "map.safetensors")

    def check_map(self, sensitivity: SensitivityMap) -> None:
        """Refuse a map measured with another sampler, step count or guidance (solve_plan checks the model)."""
        info = sensitivity.info
        if info.sampler != self.identity or info.guidance != self.options.guidance:
            raise PlanError(
                f"the map is for {info.sampler.name} with {info.sampler.steps} steps, eta {info.sampler.eta:g} and "
                f"guidance {info.guidance:g}, not {self.identity.name} with {self.identity.steps} steps, eta "
                f"{self.identity.eta:g} and guidance {self.options.guidance:g}; profile again or pass its settings"
            )

    def check_budget(self, options: PlanOptions) -> None:
        """Refuse an impossible budget before anything is measured."""
        error = np.ones((self.sampler.steps, MAX_INTERVAL))
        solve_anchors(anchor_cost(options.cost, error, options.budget), options.budget)

    def plan(self, sensitivity: SensitivityMap, options: PlanOptions) -> SolvedPlan:
        """Solve a plan for the map."""
        self.check_map(sensitivity)
        return solve_plan(sensitivity, self.loaded.denoiser.spec, options)

    def load_plan(self, path: Path) -> Plan:
        """Read a plan that someone wrote, and refuse it if it is for something else."""
        plan = read_plan(path)
        check_fits(plan, self.loaded.denoiser.spec, self.identity, self.options.guidance)
        return plan

    def build(self, plan: Plan, backend: str, out: Path) -> Built:
        """Lower, export, compile and pack a plan that fits this model."""
        denoiser, text = self.loaded.denoiser, plan_text(plan)
        spec = denoiser.spec
        common = {"model": spec, "scheduler": self.loaded.scheduler_config, "plan": text.decode()}
        lowered = self.store.produce("programs", common, lambda folder: _write_programs(folder, plan, text, self))
        table = read_table((lowered / "programs.json").read_bytes(), str(lowered / "programs.json"))
        # what follows depends on the decisions, not on who made them
        common = {"model": spec, "scheduler": self.loaded.scheduler_config,
                  "table": msgspec.structs.replace(table, plan_hash="")}  # fmt: skip
        exported = self.store.produce(
            "export", common,
            lambda folder: export_programs(denoiser, self.sampler, table, folder, partial(self.progress, "export")),
        )  # fmt: skip
        index = read_index(exported)
        names = (index.prepare, *index.programs)
        engines = self.store.produce(
            f"engines-{backend}", {**common, "library": library_version(backend)},
            lambda folder: compile_engines(backend, exported, names, folder),
        )  # fmt: skip
        extra = [lowered / "plan.json", lowered / "programs.json"]
        pack_bundle(
            spec, table, index, backend, exported, engines, extra, self.store.root, out, partial(self.progress, "pack")
        )
        return Built(out, plan, table, tuple(self.store.reused))


def _write_programs(folder: Path, plan: Plan, text: bytes, bench: Workbench) -> None:
    (folder / "plan.json").write_bytes(text)
    (folder / "programs.json").write_bytes(table_text(lower_plan(plan, bench.loaded.denoiser.spec)))
