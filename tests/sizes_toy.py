"""A toy PixArt at three sizes, in one bundle and in a bundle of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from soda_export.models.load import ModelRequest
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.plan import Plan
from soda_export.policy.adaptive import AdaptivePolicy
from soda_export.policy.easycache import make_easycache
from soda_export.workbench.assemble import assemble_bundle
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.tiny import make_plan, mixed_kept, save_tiny_pixart

SIZES = ((16, 16), (16, 24), (8, 16))
NAMES = tuple("{}x{}".format(*size) for size in SIZES)
SAMPLER = SamplerOptions("dpm-solver++", 8, 0.0, 4.5)


@dataclass
class SizesToy:
    """sized: a workbench and a plan of each size. bundle: of all; its singles: HxW -> a bundle of that size."""

    root: Path
    sized: list[tuple[Workbench, Plan]]
    bundle: Path

    def policy(self, number: int) -> AdaptivePolicy:
        """What runs of one of the first two sizes follow, each with a threshold of its own."""
        return make_easycache(self.sized[number][0].sampler, (0.3, 1.0)[number])

    @cached_property
    def deciding(self) -> Path:
        """The first two sizes, with a policy each."""
        policies = [self.policy(number) for number in range(2)]
        return assemble_bundle(self.sized[:2], "ort", self.root / "deciding", policies=policies).out

    def single(self, number: int) -> Path:
        """A bundle of one of the sizes alone."""
        bench, plan = self.sized[number]
        return bench.build(plan, "ort", self.root / "single-{}x{}".format(*bench.loaded.size)).out


def workbenches(folder: Path, store: StageStore) -> list[Workbench]:
    """One of each size."""
    names = ["{}x{}".format(*size) for size in SIZES]
    return [Workbench(ModelRequest(str(folder), size=(name,)), SAMPLER, store, lambda *_: None) for name in names]


def make_sizes_toy(root: Path, options: BundleOptions = BundleOptions()) -> SizesToy:
    """Build it; the plan is that of the first size, carried over."""
    benches = workbenches(save_tiny_pixart(root / "tiny"), StageStore(root / "work"))
    first = benches[0]
    plan = make_plan(first.loaded.spec, mixed_kept(modules=3), SAMPLER.sampler, 0.0, SAMPLER.guidance)
    sized = [(bench, bench.carried(plan, first)) for bench in benches]
    return SizesToy(root, sized, assemble_bundle(sized, "ort", root / "sizes", options).out)
