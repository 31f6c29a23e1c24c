"""Load a bundle, sample, decode: ComfyUI's node interface.

Classes have INPUT_TYPES, RETURN_TYPES, FUNCTION and CATEGORY, as ComfyUI's custom_nodes/example_node.py.example says.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from soda_runtime import Bundle, Noise, RequestError
from soda_runtime.manifest import AudioFinish, LabelPort
from soda_runtime.request import example_request
from soda_runtime.signature import MASK, START_KNOWN
from torch.nn.functional import interpolate

from .bundles import OpenedBundle, bundle_names, fingerprint, lora_names, open_bundle
from .scaling import Scaling

CATEGORY = "soda"
BUNDLE = "SODA_BUNDLE"
OWN = "bundle"
"""Choice of what the bundle was built for."""


class LoadBundle:
    """Open a bundle folder of models/soda."""

    RETURN_TYPES = (BUNDLE,)
    RETURN_NAMES = ("bundle",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = "Open a bundle of soda-export: a diffusion model, compiled with its sampler and number of steps."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        backends = [OWN, "ort", "openvino"]
        return {
            "required": {"name": (bundle_names(), {"tooltip": "folders in models/soda"})},
            "optional": {
                "backend": (backends, {"default": OWN, "tooltip": "engine library"}),
                "threads": ("INT", {"default": 0, "min": 0, "max": 1024, "tooltip": "0: the engine library's choice"}),
            },
        }

    @classmethod
    def IS_CHANGED(cls, name: str, **_: Any) -> str:  # noqa: N802
        return fingerprint(name)

    def load(self, name: str, backend: str = OWN, threads: int = 0) -> tuple[OpenedBundle]:
        """The opened bundle."""
        return (open_bundle(name, "" if backend == OWN else backend, threads),)


class Lora:
    """Add a LoRA of models/loras to a bundle; several one after the other."""

    RETURN_TYPES = (BUNDLE,)
    RETURN_NAMES = ("bundle",)
    FUNCTION = "add"
    CATEGORY = CATEGORY
    DESCRIPTION = "Add a LoRA to the bundle's weights. Engines are opened anew where it or its strength changes."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        strength = {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.01}
        return {
            "required": {
                "bundle": (BUNDLE,),
                "lora_name": (lora_names(), {"tooltip": "files in models/loras"}),
                "strength": ("FLOAT", strength),
            }
        }

    def add(self, bundle: OpenedBundle, lora_name: str, strength: float) -> tuple[OpenedBundle]:
        """The bundle with one more LoRA."""
        return (bundle.with_lora(lora_name, strength),)


class Sample:
    """Play a bundle's whole request: text encoders, steps with guidance, and the schedule's cache."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"
    CATEGORY = CATEGORY
    DESCRIPTION = "Draw latents, in the bundle's steps; a seed gives the noise that KSampler would draw."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        text = {"multiline": True, "default": "", "dynamicPrompts": True}
        seed = {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True}
        side = {"default": 0, "min": 0, "max": 16384, "step": 8, "tooltip": "one of the bundle's sizes; 0: its first"}
        return {
            "required": {
                "bundle": (BUNDLE,),
                "prompt": ("STRING", {**text, "tooltip": "of a model of classes: its numbers, 1, 5"}),
                "seed": ("INT", seed),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
            },
            "optional": {
                "negative_prompt": ("STRING", text),
                "guidance": ("FLOAT", {
                    "default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "0: the bundle's own",
                }),
                "policy": ([OWN, "frozen", "adaptive", "full"], {
                    "default": OWN, "tooltip": "full: everything computed at every step",
                }),
                "latent": ("LATENT", {"tooltip": "what the run starts from, where denoise is below 1"}),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
                "mask": ("MASK", {"tooltip": "1 where a bundle that inpaints draws anew"}),
                "width": ("INT", side),
                "height": ("INT", side),
            },
        }  # fmt: skip

    def sample(
        self, bundle: OpenedBundle, prompt: str, seed: int, batch_size: int, negative_prompt: str = "",
        guidance: float = 0.0, policy: str = OWN, latent: dict[str, Any] | None = None, denoise: float = 1.0,
        mask: torch.Tensor | None = None, width: int = 0, height: int = 0,
    ) -> tuple[dict[str, Any]]:  # fmt: skip
        """The latents that the request ends with."""
        session, starts = bundle.session, latent is not None and (denoise < 1.0 or _inpaints(bundle))
        size = bundle.size(height, width)
        if latent is not None and starts and not (width or height):
            size = bundle.size_of(tuple(latent["samples"].shape[1:]))
        scaling = bundle.scalings[size]
        asked: dict[str, Any] = {"policy": "" if policy == OWN else policy, "batch": batch_size, "size": size}
        if guidance:
            asked["guidance"] = guidance
        if any(isinstance(port, LabelPort) for port in session.bundle.manifest.ports):
            asked["labels"] = _labels(prompt)
        else:
            asked |= {"prompt": prompt, "negative_prompt": negative_prompt}
        mask = latent.get("noise_mask") if mask is None and latent else mask
        if latent is not None and starts:
            start = scaling.to_model(latent["samples"].float().cpu()).numpy()
            if batch_size % len(start):
                raise RequestError(f"{len(start)} latents for a batch of {batch_size}; give one, or one per sample")
            asked |= {"start_latents": np.concatenate([start] * (batch_size // len(start))), "strength": denoise}
        elif denoise < 1.0:
            raise RequestError("denoise below 1 starts from a latent; connect one")
        if mask is not None:
            asked["inputs"] = {MASK: self._mask(session.bundle.at(size), scaling, mask)}
        bundle.take_loras()
        session.start(**asked, noise=_noise(bundle, scaling, seed, batch_size))
        steps = session.bundle.manifest.sampler.steps
        bar, first = comfy.utils.ProgressBar(steps - session.next_step), session.next_step
        for step in range(first, steps):
            comfy.model_management.throw_exception_if_processing_interrupted()
            session.step(step)
            bar.update_absolute(step + 1 - first)
        return ({"samples": scaling.to_comfy(torch.from_numpy(session.latents()))},)

    @staticmethod
    def _mask(sized: Bundle, scaling: Scaling, mask: torch.Tensor) -> np.ndarray:
        """[B, H, W] in pixels -> the port of a bundle at a size."""
        ports = [port for port in sized.manifest.ports if port.name == MASK]
        if not ports:
            raise RequestError("the bundle does not inpaint; build it with --inpainting, or leave the mask out")
        *_, height, width = scaling.unpacked
        small = interpolate(mask.reshape(-1, 1, *mask.shape[-2:]).float().cpu(), size=(height, width))
        if len(scaling.shape) == 2:
            small = scaling.pack(small.repeat(1, scaling.unpacked[0], 1, 1))
        return np.ascontiguousarray(small.reshape(-1, *ports[0].shape).numpy())


class Decode:
    """Make pictures of latents with the bundle's own decoder; frames of a video are pictures one after the other."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"
    CATEGORY = CATEGORY
    DESCRIPTION = "Decode latents with the bundle's decoder. ComfyUI's VAE Decode with the model's VAE does as well."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"bundle": (BUNDLE,), "samples": ("LATENT",)}}

    def decode(self, bundle: OpenedBundle, samples: dict[str, Any]) -> tuple[torch.Tensor]:
        """Pictures [B, H, W, C] in 0..1."""
        if bundle.session.result_kind == "audio":
            raise RequestError("the bundle makes sound; use the node that decodes sound")
        made = torch.from_numpy(_result(bundle, samples))
        return (made.reshape(-1, *made.shape[-3:]),)


class DecodeAudio:
    """Make sound of latents with the bundle's own decoder."""

    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "decode"
    CATEGORY = CATEGORY
    DESCRIPTION = "Decode latents of sound with the bundle's decoder."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"bundle": (BUNDLE,), "samples": ("LATENT",)}}

    def decode(self, bundle: OpenedBundle, samples: dict[str, Any]) -> tuple[dict[str, Any]]:
        """A waveform [B, channels, samples] in -1..1 and its rate."""
        finish = [each for each in bundle.session.bundle.manifest.finish if isinstance(each, AudioFinish)]
        if not finish:
            raise RequestError("the bundle makes no sound; use the node that decodes pictures")
        return ({"waveform": torch.from_numpy(_result(bundle, samples)), "sample_rate": finish[0].sample_rate},)


def _result(bundle: OpenedBundle, samples: dict[str, Any]) -> np.ndarray:
    """What the bundle makes of any latents: those of a request that has just begun are replaced by them."""
    session, raw = bundle.session, samples["samples"].float().cpu()
    size = bundle.size_of(tuple(raw.shape[1:]))
    latents = bundle.scalings[size].to_model(raw)
    session.start(**example_request(session.bundle.at(size), len(latents)), size=size)
    session.replace_latents(np.ascontiguousarray(latents.numpy()))
    return session.result()


def _inpaints(bundle: OpenedBundle) -> bool:
    return START_KNOWN in bundle.session.bundle.tables


def _noise(bundle: OpenedBundle, scaling: Scaling, seed: int, samples: int) -> Noise:
    """As ComfyUI draws it, on the CPU; of a stochastic sampler the noise of each step after it."""
    manifest = bundle.session.bundle.manifest
    generator = torch.Generator().manual_seed(seed)
    initial = scaling.pack(torch.randn(samples, *scaling.unpacked, generator=generator)).numpy()
    if not manifest.sampler.stochastic:
        return Noise(np.ascontiguousarray(initial))
    steps = torch.randn(manifest.sampler.steps, *initial.shape, generator=generator)
    return Noise(np.ascontiguousarray(initial), steps.numpy())


def _labels(text: str) -> list[int]:
    """Numbers of classes in a text."""
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise RequestError(f"prompt {text!r:.40}: the bundle draws classes; give their numbers, e.g. 1, 5") from None


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "SodaLoadBundle": LoadBundle, "SodaLora": Lora, "SodaSample": Sample, "SodaDecode": Decode,
    "SodaDecodeAudio": DecodeAudio,
}  # fmt: skip
NODE_DISPLAY_NAME_MAPPINGS = {
    "SodaLoadBundle": "Load bundle (soda)", "SodaLora": "Add LoRA (soda)", "SodaSample": "Sample (soda)",
    "SodaDecode": "Decode (soda)", "SodaDecodeAudio": "Decode sound (soda)",
}  # fmt: skip
