"""A whole bundle with diffusers' calling conventions: `SodaPipeline.from_bundle("engines/...")(prompt).images`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from diffusers.utils.logging import tqdm
from numpy.typing import NDArray
from soda_runtime import Bundle, Noise, Request, Session
from soda_runtime.backends import DeviceBackend, DeviceOptions
from soda_runtime.lora import LoraArgument
from soda_runtime.manifest import HintPort, LabelPort, Manifest
from soda_runtime.opened import OpenedBundle
from soda_runtime.signature import MASK, START_KNOWN
from soda_runtime.starts import judge_start
from torch import Tensor

from ..errors import RequestError
from ..models.spec import MASKED_LATENTS
from .adapters import LoraAdapters
from .conditions import EMBEDS, TEXTS, conditions, guidance_of
from .latents import Generators, draw_initial, draw_noise
from .pictures import Pictures
from .results import as_output, check_output, convert
from .sizes import choose_size

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


class SodaPipeline(LoraAdapters):
    """Plays whole requests of a bundle, frozen plan, guidance and sampler included, at any of its sizes.

    What a call asks for and the bundle cannot do (another number of steps, another size) is refused with RequestError.
    Not for several threads at a time.
    """

    def __init__(self, session: Session, vae: Any = None) -> None:
        """vae: diffusers' autoencoder of the model, for requests that start from pictures."""
        super().__init__(session)
        self.vae = vae
        self._bar: dict[str, Any] = {}
        self._interrupt = False
        self._guidance_scale: float | None = None

    @classmethod
    def from_bundle(
        cls, path: str | os.PathLike[str], *, vae: Any = None, backend: str = "", device: str = "auto",
        threads: int = 0, options: DeviceOptions = DeviceOptions(), lora: Sequence[LoraArgument] = (),
    ) -> Self:  # fmt: skip
        """Open a bundle folder; arguments as for soda_runtime.Bundle.open. Raises BundleError, EngineError, and
        RequestError for a LoRA that does not fit."""
        bundle = Bundle.open(path, backend=backend, device=device, threads=threads, options=options, lora=lora)
        return cls(bundle.session(), vae)

    @property
    def manifest(self) -> Manifest:
        """What the bundle is, at the size of the last call."""
        return self.session.bundle.manifest

    @property
    def num_timesteps(self) -> int:
        """Steps of every whole run."""
        return self.manifest.sampler.steps

    @property
    def guidance_scale(self) -> float | None:
        """Of the last call; None: the bundle's own."""
        return self._guidance_scale

    def to(self, device: str | torch.device) -> Self:
        """Itself, where that is where the engines are; they do not move. Raises RequestError."""
        own = "cuda" if isinstance(self.session.bundle.backend, DeviceBackend) else "cpu"
        kind = torch.device(device).type
        if kind != own:
            raise RequestError(f"the bundle's engines are on {own}; open it with from_bundle(..., device={kind!r})")
        return self

    def set_progress_bar_config(self, **settings: Any) -> None:
        """Settings of tqdm, e.g. disable=True."""
        self._bar = settings

    def __call__(
        self,
        prompt: Any = None,
        *,
        negative_prompt: Any = None,
        class_labels: Any = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        inputs: Mapping[str, Any] | None = None,
        policy: str = "",
        vote: str = "",
        **others: Any,
    ) -> Any:
        """Draw; returns an output with `images`, `frames` or `audios`, or a tuple of it where return_dict is false.

        Arguments as of diffusers' pipelines, prompt_2, prompt_embeds and the like included. height and width choose one
        of the bundle's sizes, the first where they are left out. image and strength start
        from a picture, or from clean latents; mask_image keeps the rest of it; of a bundle with ControlNets image is
        what they follow. inputs: values of any of the bundle's ports by name. policy, vote: as of
        soda_runtime.Session.generate. Raises RequestError.
        """
        bundle, size = choose_size(self.session.bundle, height, width)
        kind, manifest = self.session.result_kind, bundle.manifest
        check_output(output_type, kind)
        self._check_steps(num_inference_steps)
        if tuple(callback_on_step_end_tensor_inputs) not in ((), ("latents",)):
            raise RequestError("callback_on_step_end_tensor_inputs: a bundle's callbacks see the latents alone")
        texts = self._texts(prompt, negative_prompt, class_labels, others)
        given, samples = conditions(texts, manifest, num_images_per_prompt)
        guided = guidance_of(guidance_scale, manifest)
        ports = {**dict(inputs or {}), **guided.pop("inputs", {})}
        pictures = Pictures(manifest, self.vae, size)
        hints = [port for port in manifest.ports if isinstance(port, HintPort) and port.name.startswith("hint")]
        start: dict[str, Any] = {}
        if image is not None and hints and strength is None and mask_image is None:
            ports |= self._hints(pictures, image, hints)
        elif _starts(bundle, image, mask_image, strength):
            clean = _tiled(pictures.latents(image, generator), samples)
            start = {"start_latents": clean, "strength": 1.0 if strength is None else strength}
        first = judge_start(Request(**start), manifest, bundle.tables)
        noise = _noise(manifest, size, latents, samples, generator, first.first or 0 if first else 0)
        if mask_image is not None:
            ports[MASK] = pictures.mask(mask_image)
            if any(port.name == MASKED_LATENTS for port in manifest.ports):
                ports[MASKED_LATENTS] = pictures.masked_latents(image, mask_image, generator)
        self._guidance_scale, self._interrupt = guidance_scale, False
        asked: dict[str, Any] = {**given, **guided, **start, "policy": policy, "vote": vote}
        self.session.begin(Request(**asked, inputs=ports, batch=samples, noise=noise, size=bundle.size))
        self._run(callback_on_step_end, callback_on_step_end_tensor_inputs)
        made = self.session.latents() if output_type == "latent" else self.session.result()
        found = convert(made, output_type, kind)
        return as_output(found, kind) if return_dict else (found,)

    def close(self) -> None:
        """Free buffers and engines."""
        self.session.close()
        self.session.bundle.close()

    def _run(self, callback: Callback | None, names: Sequence[str]) -> None:
        """Every step, with the progress bar that diffusers shows."""
        session, sampler = self.session, self.manifest.sampler
        with tqdm(**{"total": sampler.steps - session.next_step, **self._bar}) as bar:
            for number, step in enumerate(range(session.next_step, sampler.steps)):
                if self._interrupt:
                    break
                session.step(step)
                if callback is not None:
                    shown = {"latents": torch.from_numpy(session.latents())} if names else {}
                    before = shown["latents"].clone() if names else None
                    after = (callback(self, number, torch.tensor(sampler.timesteps[step]), shown) or {}).get("latents")
                    if before is not None and after is not None and not torch.equal(after, before):
                        session.replace_latents(np.ascontiguousarray(after.detach().cpu().float().numpy()))
                bar.update()

    def _texts(self, prompt: Any, negative: Any, labels: Any, others: Mapping[str, Any]) -> dict[str, Any]:
        """Prompts, embeddings and labels that are given; others that are given are refused."""
        for name, value in others.items():
            if value is not None and name not in (*TEXTS, *EMBEDS):
                raise RequestError(f"{name}: nothing in the bundle's compiled steps takes it; leave it out")
        classes = any(isinstance(port, LabelPort) for port in self.manifest.ports)
        if classes and labels is None and not isinstance(prompt, str):
            prompt, labels = None, prompt  # the first argument of DiTPipeline
        named = {"prompt": prompt, "negative_prompt": negative, "class_labels": labels, **others}
        return {name: value for name, value in named.items() if value is not None}

    def _check_steps(self, steps: int | None) -> None:
        sampler = self.manifest.sampler
        asked = sampler.steps - (sampler.name == "pndm")  # which calls the model once more
        if steps not in (None, asked):
            raise RequestError(
                f"num_inference_steps={steps}: the bundle has {asked} steps of {sampler.name}; leave it out, or build "
                "one with --steps"
            )

    def _hints(self, pictures: Pictures, image: Any, hints: Sequence[HintPort]) -> dict[str, NDArray[np.float32]]:
        images = image if len(hints) > 1 else [image]
        if len(images) != len(hints):
            raise RequestError(f"{len(images)} pictures for {len(hints)} ControlNets; give one each")
        return {port.name: pictures.hint(each, port) for port, each in zip(hints, images, strict=True)}


def _noise(
    manifest: Manifest, size: tuple[int, int], latents: Tensor | None, samples: int, generator: Generators, first: int
) -> Noise:
    if latents is None:
        initial: NDArray[np.float32] = draw_initial(manifest, samples, generator, size)
    else:
        initial, wanted = latents.detach().cpu().float().numpy(), (samples, *manifest.model.latent_shape)
        if initial.shape != wanted:
            raise RequestError(f"latents have shape {list(initial.shape)}, expected {list(wanted)}")
    return draw_noise(manifest, initial, generator, first)


def _starts(bundle: OpenedBundle, image: Any, mask_image: Any, strength: float | None) -> bool:
    """Whether a picture is where the run starts: a model made for inpainting is shown one besides."""
    if image is None and strength is not None:
        raise RequestError("strength starts from a picture: give image and strength together")
    if image is not None and strength is None and mask_image is None:
        raise RequestError("image: give strength, too, 0 .. 1: how much of the picture is drawn anew")
    if image is None or mask_image is None:
        return image is not None
    return START_KNOWN in bundle.tables or strength not in (None, 1.0)


def _tiled(clean: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """[n, ...] -> [samples, ...]: pictures in turn, as pipelines repeat them."""
    if samples % len(clean):
        raise RequestError(f"{len(clean)} pictures for {samples} samples; give one, or one per prompt")
    return np.concatenate([clean] * (samples // len(clean)))
