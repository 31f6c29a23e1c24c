"""Pictures that a request is given, as latents, masks and hints, as diffusers' pipelines make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from numpy.typing import NDArray
from soda_runtime.manifest import HintPort, Manifest
from soda_runtime.signature import MASK
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import RequestError
from ..models.spec import MASKED_LATENTS
from .latents import Generators, pack, unpacked_shape


@dataclass(frozen=True)
class Pictures:
    """vae: diffusers' autoencoder of the model, None where latents alone are taken. size: height, width in pixels."""

    manifest: Manifest
    vae: Any
    size: tuple[int, int]

    def latents(self, image: Any, generator: Generators) -> NDArray[np.float32]:
        """Clean latents [n, *latent_shape] of pictures, or of latents that are given as such."""
        shape, own = tuple(self.manifest.model.latent_shape), unpacked_shape(self.manifest, self.size)
        if isinstance(image, (Tensor, np.ndarray)) and tuple(image.shape[1:]) in (shape, own):
            given = torch.as_tensor(image).detach().cpu().float()
            return _array(given if tuple(given.shape[1:]) == shape else pack(given, self.manifest))
        if self.manifest.model.output == "pixels":
            processor = VaeImageProcessor(vae_scale_factor=1, do_convert_grayscale=own[0] == 1)
            return _array(processor.preprocess(image, own[-2], own[-1]))
        return _array(pack(self._encoded(self._pixels(image), generator), self.manifest))

    def mask(self, mask_image: Any) -> NDArray[np.float32]:
        """1 where latents are drawn anew: [n, *shape of the port]."""
        *_, height, width = unpacked_shape(self.manifest, self.size)
        mask = interpolate(self._mask_pixels(mask_image), size=(height, width))
        port = self._port(MASK)
        if len(port.shape) == 2:  # packed, for every channel
            mask = pack(mask.repeat(1, port.shape[1] // 4, 1, 1), self.manifest)
        return _array(mask)

    def masked_latents(self, image: Any, mask_image: Any, generator: Generators) -> NDArray[np.float32]:
        """The picture without what is drawn anew, for models made for inpainting: [n, C, h, w]."""
        if any(port.name == MASKED_LATENTS for port in self.manifest.ports) and image is None:
            raise RequestError("mask_image needs the picture, too; give image")
        masked = self._pixels(image) * (self._mask_pixels(mask_image) < 0.5)
        return _array(self._encoded(masked, generator))

    def hint(self, image: Any, port: HintPort) -> NDArray[np.float32]:
        """A picture for a ControlNet, in 0..1: [n, *shape of the port]."""
        processor = VaeImageProcessor(vae_scale_factor=1, do_normalize=False, do_convert_rgb=True)
        return _array(processor.preprocess(image, port.shape[-2], port.shape[-1]))

    def _pixels(self, image: Any) -> Tensor:
        """[n, 3, H, W] in -1..1."""
        if self.vae is None:
            raise RequestError(
                "image: the bundle has no encoder of pictures; give latents, or open it with "
                "from_bundle(..., vae=AutoencoderKL.from_pretrained(...))"
            )
        pixels: Tensor = VaeImageProcessor(vae_scale_factor=1).preprocess(image, *self.size).float()
        return pixels

    def _mask_pixels(self, mask_image: Any) -> Tensor:
        processor = VaeImageProcessor(
            vae_scale_factor=1, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )
        mask: Tensor = processor.preprocess(mask_image, *self.size).float()
        return mask

    @torch.no_grad()
    def _encoded(self, pixels: Tensor, generator: Generators) -> Tensor:
        vae = self.vae
        found = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        if generator is None or isinstance(generator, torch.Generator) or len(generator) == 1:
            one = generator if generator is None or isinstance(generator, torch.Generator) else generator[0]
            sample = found.sample(one)
        else:
            if len(pixels) not in (1, len(generator)):
                raise RequestError(f"{len(pixels)} pictures and {len(generator)} generators do not agree")
            each = pixels if len(pixels) == len(generator) else pixels.expand(len(generator), *pixels.shape[1:])
            parts = [
                vae.encode(each[i : i + 1].to(vae.device, vae.dtype)).latent_dist.sample(own)
                for i, own in enumerate(generator)
            ]
            sample = torch.cat(parts)
        shift = vae.config.get("shift_factor") or 0.0
        scaled: Tensor = ((sample - shift) * vae.config.scaling_factor).float().cpu()
        return scaled

    def _port(self, name: str) -> HintPort:
        for port in self.manifest.ports:
            if port.name == name and isinstance(port, HintPort):
                return port
        raise RequestError("mask_image: the bundle does not inpaint; build it with --inpainting")


def _array(values: Tensor) -> NDArray[np.float32]:
    made: NDArray[np.float32] = np.ascontiguousarray(values.detach().cpu().float().numpy())
    return made
