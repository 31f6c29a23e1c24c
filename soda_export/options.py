"""Options of the stages. Each is the only home of its name, type, default and help; the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .models.identity import SamplerIdentity, TokenScore
from .models.precision import Precision
from .plan.sensitivity import Metric

if TYPE_CHECKING:
    from .models.load import LoadedModel

PLAN_SEED = 1
"""Of the noise that planning measures with. Profiling uses 0 by default, evaluation its own range."""
_JUDGED_WITH = {
    "clips": (30, 4.0), "scenes": (25, 3.0), "shapes": (20, 7.0), "shapes-flux": (25, 1.0), "tones": (50, 2.0),
}  # fmt: skip
"""Built-in model -> the steps and the guidance that it was judged with."""


def defaults_for(loaded: LoadedModel) -> tuple[SamplerIdentity, float]:
    """Sampler and guidance of a model where neither the user nor a map or plan says: its own scheduler, the steps and
    guidance of its family's published results. Raises ModelError where its scheduler has no counterpart."""
    from .sampler import own_sampler  # it imports torch, and help pages read this file

    family = loaded.family
    usual = (family.steps, family.default_guidance if family.guidance == "rows" else 1.0)
    steps, guidance = _JUDGED_WITH.get(loaded.spec.name, usual)
    return SamplerIdentity(own_sampler(loaded.scheduler_config), steps), guidance


@dataclass(frozen=True)
class SamplerRequest:
    """What the user asked of the sampler; what was not asked comes from the map or plan given, or the defaults."""

    sampler: Literal[
        "ddim", "ddpm", "dpm-solver++", "euler", "euler-ancestral", "flow-euler", "flow-dpm-solver++", "flow-unipc",
        "lcm", "pndm", "rflow", "tcd", "unipc",
        "dpm-solver++-karras", "euler-karras", "unipc-karras",
    ] | None = None  # fmt: skip
    """Sampler; -karras forces Karras et al.'s noise levels. [default: the given map's or plan's, else the model's
    own scheduler]"""
    steps: int | None = None
    """Denoising steps. [default: the given map's or plan's, else the model's]"""
    eta: float | None = None
    """DDIM's share of DDPM's noise, TCD's gamma, 0..1. [default: the given map's or plan's, else 0]"""
    guidance: float | None = None
    """Classifier-free guidance scale; 1 or less turns it off. [default: the given map's or plan's, else the model's:
    DiT 1.5, PixArt 4.5]"""
    guidance_channels: Literal["all", "3"] | None = None
    """Latent channels that guidance applies to; DiT's authors guide 3 of 4. [default: the map's or plan's, else all]"""

    def origins(self, options: SamplerOptions, given: str) -> str:
        """What was resolved and where each part comes from. given: `the plan's` or `the map's`, "" for neither."""

        def origin(option: str, own: str) -> str:
            return f"--{option}" if getattr(self, option) is not None else given or own

        return (
            f"{options.sampler} ({origin('sampler', 'scheduler_config.json')}), "
            f"{options.steps} steps ({origin('steps', 'default of the model family')}), "
            f"guidance {options.guidance:g} ({origin('guidance', 'default of the model family')})"
        )

    def resolve(self, base: SamplerIdentity, guidance: float) -> SamplerOptions:
        """Fill in what was not asked."""
        guided = base.guided_channels if self.guidance_channels is None else _GUIDED[self.guidance_channels]
        return SamplerOptions(
            base.name if self.sampler is None else self.sampler,
            base.steps if self.steps is None else self.steps,
            base.eta if self.eta is None else self.eta,
            guidance if self.guidance is None else self.guidance,
            guided,
        )


_GUIDED = {"all": 0, "3": 3}


@dataclass(frozen=True)
class SamplerOptions:
    """The frozen sampler and guidance."""

    sampler: str
    steps: int
    eta: float
    guidance: float
    guided_channels: int = 0


@dataclass(frozen=True)
class ProfileOptions:
    """How to measure a model's sensitivity."""

    samples: int = 32
    """Random generations to average over."""
    seed: int = 0
    """Seed of their noise."""
    metric: Metric = "cosine"
    """How outputs are compared."""
    token_score: TokenScore = "mean"
    """Whose largest tokens are kept: channel mean of the module's input, its absolute value, or the cached output's."""
    profile_memory: float = 4.0
    """Most GB for the history of outputs; where it does not fit, a random subset of the tokens is compared."""
    profile_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the matrix products; auto: bf16 where the machine multiplies it faster."""
    prompts: Path | None = None
    """Text models: file with one prompt a line. [default: the model's own prompts.txt, else built-in ones]"""
    profile_embeds: Path | None = None
    """Text models: safetensors file of prompt embeddings, as diffusers' encode_prompt gives them."""
    hints: Path | None = None
    """ControlNets: folder of pictures, in the order of their names one a prompt; of several ControlNets, a folder for
    each port in it. [default: hints/ in the ControlNet's folder, else noise]"""


@dataclass(frozen=True)
class NetworkOptions:
    """Networks that judge pictures."""

    inception: Path | None = None
    """FID: file of torch-fidelity's Inception weights. [package: torch-fidelity]"""
    clip: Path | None = None
    """CLIP score: folder of a CLIP model in transformers' format."""
    lpips: Path | None = None
    """LPIPS: file of torchvision's AlexNet weights. [package: lpips]"""


@dataclass(frozen=True)
class BundleOptions:
    """What to make."""

    backend: str = "ort"
    """Engine library, or auto: the fastest one on this machine, its GPU included, measured; `soda-export doctor` lists
    them."""
    precision: Precision = "fp32"
    """Of weights, activations and cache; norms, softmax and the sampler stay in fp32. int8-weights: the layers'
    matrices in int8, the rest in bf16; int8: what they are multiplied with, too (openvino; with ort the rest
    is in fp32)."""
    without: tuple[Literal["text-encoder", "decoder"], ...] = ()
    """Leave a part of the pipeline out: the bundle then takes embeddings, or gives latents."""
    inpainting: bool = False
    """Requests bring a `mask` and known latents, and steps draw inside the mask alone."""
    out: Path | None = None
    """Bundle folder. [default: engines/MODEL-bBUDGET-BACKEND, with x2.5, s2 or 400ms for a FLOPs ratio, speedup or
    latency, or MODEL-PLANFILE-BACKEND]"""
