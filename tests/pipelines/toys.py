"""Toy pipelines of diffusers, and bundles of their denoisers: with everything computed, and accelerated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch

from soda_export.models.load import ModelRequest
from soda_export.models.published import denoiser_folder
from soda_export.models.spec import ModelSpec
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.planners.skips import zeus_fill
from soda_export.plan.schedule import Schedule, skipped_work
from soda_export.workbench.assemble import assemble_bundle
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.tiny_models import save_tiny_dit, save_tiny_flux, save_tiny_pixart, save_tiny_sd3, save_tiny_unet

STEPS, SAMPLES = 6, 2
NO_TEXTS = BundleOptions(without=("text-encoder",))


def reusing(spec: ModelSpec) -> Schedule:
    """Anchors with reuse between them."""
    return Schedule.at_anchors(spec, STEPS, (0, 4))


def renewing(spec: ModelSpec) -> Schedule:
    """The same, with some tokens of each feed-forward renewed in one step."""
    schedule = reusing(spec)
    for k, site in enumerate(spec.sites):
        if site.kind == "ff":
            schedule.work[3, k] = site.tokens // 4
    return schedule


def skipping(spec: ModelSpec) -> Schedule:
    """Steps that do not call the model, one of them beside one that reuses."""
    schedule = Schedule.at_anchors(spec, STEPS, (0, 1, 5))
    schedule.work[[2, 4]] = skipped_work(spec)
    return schedule


@dataclass
class Toy:
    """asked: arguments of both pipelines. own: of diffusers' alone. side: of the picture, where it is chosen."""

    pipeline: str
    save: Callable[[Path], Path]
    sampler: str
    guidance: float
    plan: Callable[[ModelSpec], Schedule]
    texts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    side: int | None = None
    parts: dict[str, Any] = field(default_factory=dict)

    def workbench(self, root: Path, size: tuple[int, int] | None = None) -> Workbench:
        folder = root / "model"
        if not folder.is_dir():
            self.save(folder)
        request = ModelRequest(str(folder), image_size=self.side)
        if size is not None:
            request = ModelRequest(str(folder), size=("{}x{}".format(*size),))
        options = SamplerOptions(self.sampler, STEPS, 0.0, self.guidance)
        return Workbench(request, options, StageStore(root / "store"), lambda *_: None)

    def arguments(self, **more: Any) -> dict[str, Any]:
        """Of a call of either pipeline, with random embeddings."""
        generator = torch.Generator().manual_seed(7)
        texts = {}
        for name, shape in self.texts.items():
            texts[name] = torch.randn(SAMPLES, *shape, generator=generator)
            if name.endswith("mask"):
                texts[name] = torch.ones(SAMPLES, *shape, dtype=torch.int64)
                texts[name][0, -2:] = 0
        return {**texts, **self.asked, "num_inference_steps": STEPS, "generator": seeded(), **more}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _both(**shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return shapes | {f"negative_{name}": shape for name, shape in shapes.items()}


_SD = {"safety_checker": None, "feature_extractor": None, "text_encoder": None, "tokenizer": None}
_TWO = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
_16 = {"height": 16, "width": 16, "guidance_scale": 3.0}
TOYS = {
    "pixart": Toy(
        "PixArtAlphaPipeline", save_tiny_pixart, "dpm-solver++", 4.5, renewing,
        _both(prompt_embeds=(8, 16), prompt_attention_mask=(8,)), _16, {"use_resolution_binning": False,
        "negative_prompt": None}, parts={"tokenizer": None, "text_encoder": None},
    ),
    "dit": Toy("DiTPipeline", save_tiny_dit, "ddim", 1.5, reusing, {}, {"class_labels": [3, 7], "guidance_scale": 4.0}),
    "sd15": Toy(
        "StableDiffusionPipeline", save_tiny_unet, "ddim", 7.5, skipping, _both(prompt_embeds=(77, 16)), _16,
        parts=_SD | {"requires_safety_checker": False},
    ),
    "flux": Toy(
        "FluxPipeline", save_tiny_flux, "flow-euler", 1.0, reusing,
        {"prompt_embeds": (512, 16), "pooled_prompt_embeds": (12,)}, {"height": 32, "width": 32, "guidance_scale": 2.5},
        side=32, parts=_TWO,
    ),
    "sdxl": Toy(
        "StableDiffusionXLPipeline", lambda folder: save_tiny_unet(folder, "sdxl"), "euler", 5.0, skipping,
        _both(prompt_embeds=(77, 16), pooled_prompt_embeds=(12,)), _16, parts=_TWO,
    ),
    "sd3": Toy(
        "StableDiffusion3Pipeline", save_tiny_sd3, "flow-euler", 4.5, skipping,
        _both(prompt_embeds=(333, 16), pooled_prompt_embeds=(12,)), _16,
        parts=_TWO | {"text_encoder_3": None, "tokenizer_3": None},
    ),
}  # fmt: skip


class Bench:
    """One toy's pipeline and bundles, built when they are first asked for."""

    def __init__(self, name: str, root: Path) -> None:
        self.toy, self._root = TOYS[name], root

    @cached_property
    def workbench(self) -> Workbench:
        return self.toy.workbench(self._root)

    @cached_property
    def full(self) -> Path:
        """Everything computed."""
        return self._build("full", Schedule.full(self.workbench.loaded.spec, STEPS))

    @cached_property
    def fast(self) -> Path:
        """Accelerated."""
        return self._build("fast", self.toy.plan(self.workbench.loaded.spec))

    def at_sizes(self, sizes: Sequence[tuple[int, int]]) -> Path:
        """Everything computed, at several sizes."""
        benches = [self.toy.workbench(self._root, size) for size in sizes]
        sized = [(bench, bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "full")) for bench in benches]
        return assemble_bundle(sized, "ort", self._root / "sizes", NO_TEXTS).out

    def _build(self, name: str, schedule: Schedule) -> Path:
        bench = self.workbench
        plan = bench.completed(bench.plan_of(schedule, name), zeus_fill)
        return bench.build(plan, "ort", self._root / name, NO_TEXTS).out

    def pipe(self) -> Any:
        """diffusers' own, with its own module and scheduler."""
        folder = self.workbench.loaded.folder
        assert folder is not None
        place = denoiser_folder(folder)
        scheduler = self.workbench.loaded.scheduler_config["_class_name"]
        vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
        vae.register_to_config(shift_factor=0.0)  # which the toy does not say and pipelines of flows add
        pipe = getattr(diffusers, self.toy.pipeline)(
            **{place.name: getattr(diffusers, self.workbench.loaded.kind).from_pretrained(place)},
            vae=vae,
            scheduler=getattr(diffusers, scheduler).from_pretrained(folder / "scheduler"), **self.toy.parts,
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def part(self) -> str:
        """Name of the denoiser in the pipeline."""
        return "unet" if "StableDiffusionPipeline" in self.toy.pipeline or "XL" in self.toy.pipeline else "transformer"
