"""Export an image decoder: the decoder half of a diffusers autoencoder to one ONNX program and its weights.

Always fp32: Stable Diffusion's autoencoder overflows fp16, and it runs once an image.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from soda_runtime.signature import BATCH_AXIS, IMAGE, LATENTS
from torch import Tensor, nn

from ..errors import ModelError, UsageError, first_line
from ..models.checkpoint import chosen_variant
from ..models.fake import make_fake, with_buffers
from ..models.family import pixels_per_latent
from ..models.published import read_json
from ..trace.fuse import fuse
from ..trace.onnx import TracedGraph, trace_to_onnx
from ..trace.tidy import tidy
from .builder import GraphBuilder
from .tensor_file import refuse_pickled, write_tensors
from .weights import WeightsFile, constant_sources, is_large, weight_sources

log = logging.getLogger(__name__)
DECODER_NAME, DECODER_WEIGHTS_NAME = "decoder.onnx", "decoder.safetensors"
_CLASSES = ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny")  # the first where a configuration does not say


class ImageDecoder(nn.Module):
    """Latents as the denoiser has them -> image [B, 3, H, W] in 0..1, as diffusers' pipelines scale.

    Latents are [B, C, h, w] or, packed, [B, h/2 w/2, 4 C] in square images, two by two of each channel side by side
    (FluxPipeline).
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        config = vae.config
        self.pixels_per_latent, self.channels = pixels_per_latent(config), int(config.latent_channels)
        self.scaling, self.shift = float(config.scaling_factor), float(config.get("shift_factor") or 0.0)
        self.post_quant_conv, self.decoder = getattr(vae, "post_quant_conv", None) or nn.Identity(), vae.decoder

    def forward(self, *given: Tensor) -> Tensor:
        (latents,) = given
        if latents.ndim == 3:
            side, channels = math.isqrt(latents.shape[1]), latents.shape[2] // 4
            grid = latents.reshape(-1, side, side, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
            latents = grid.reshape(-1, channels, 2 * side, 2 * side)
        decoded = self.decoder(self.post_quant_conv(latents / self.scaling + self.shift))
        return (decoded / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]


def export_decoder(
    source: Path | Mapping[str, Any], out: Path, *, latent_shape: tuple[int, ...], seed: int | None = None,
    variant: str = "", progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[int, int, int]:  # fmt: skip
    """Write DECODER_NAME and DECODER_WEIGHTS_NAME into `out`; returns the image's shape [3, H, W].

    source: a diffusers vae folder, or the fields of its config.json with a seed; a seed means random weights.
    latent_shape: [C, h, w], or packed. The program takes latents float32 [batch, *latent_shape] and gives image float32
    [batch, 3, H, W]. progress(done, total) counts tensors written. Raises ModelError, ExportError, UsageError.
    """
    started = time.perf_counter()
    decoder = load_decoder(source, seed, variant)
    channels, packed = decoder.channels, len(latent_shape) == 2
    given = latent_shape[1] // 4 if packed else latent_shape[0]
    if given != channels:
        raise ModelError(f"{_where(source)}: the decoder takes {channels} channels, the denoiser has {given}")
    shape = image_shape(_read_config(source), latent_shape)
    traced = _trace(decoder, latent_shape)
    state, constants = decoder.state_dict(), [v for v in traced.graph.initializers.values() if is_large(v)]
    sources = [
        *weight_sources(traced.weights, state.__getitem__, lambda name: False), *constant_sources(constants)
    ]  # fmt: skip
    write_tensors(out / DECODER_WEIGHTS_NAME, sources, progress)
    builder = GraphBuilder("decoder", WeightsFile(out, DECODER_WEIGHTS_NAME))
    latents = builder.input(LATENTS, "float32", [BATCH_AXIS, *latent_shape])
    result = builder.splice(traced, 0, {LATENTS: latents})
    builder.output(result, IMAGE, "float32", [BATCH_AXIS, *shape])
    builder.save(out / DECODER_NAME, "latents -> images in 0..1")
    log.info("decoder: %d x %d pixels in %.1f s", shape[2], shape[1], time.perf_counter() - started)
    return shape


def image_shape(config: Mapping[str, Any], latent_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """[3, H, W] of what the decoder makes of latents [C, h, w], or packed ones."""
    sides = (2 * math.isqrt(latent_shape[0]),) * 2 if len(latent_shape) == 2 else latent_shape[1:]
    height, width = (side * pixels_per_latent(config) for side in sides)
    return 3, height, width


def _trace(decoder: ImageDecoder, latent_shape: tuple[int, ...]) -> TracedGraph:
    def build(parameter: Callable[[Tensor], Tensor]) -> nn.Module:
        placed = {id(own): nn.Parameter(parameter(own), requires_grad=False) for own in decoder.parameters()}
        return copy.deepcopy(decoder, placed)

    fake = with_buffers(make_fake(build, torch.float32), build, lambda name: None)
    with fake.mode:
        example = {LATENTS: torch.zeros(3, *latent_shape)}
    traced = trace_to_onnx(
        fake.module, example, {LATENTS: (0,)}, fake.mode, fake.buffers, "autoencoder", independent=True
    )  # independent: diffusers looks at the number of rows, though nothing depends on it
    return fuse(tidy(traced)).used()


def load_decoder(source: Path | Mapping[str, Any], seed: int | None = None, variant: str = "") -> ImageDecoder:
    """The decoder half alone, in fp32 and evaluation mode. Raises ModelError."""
    kind, config = check_decoder(source)
    if seed is not None:
        return _decoder_half(_where(source), lambda: _random(kind, config, seed))
    if not isinstance(source, Path):
        raise UsageError("a decoder without a folder needs a seed for its random weights")
    refuse_pickled(source)
    return _decoder_half(str(source), lambda: _stored(kind, source, variant))


def check_decoder(source: Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The class and the configuration of an autoencoder. Raises ModelError for one that cannot be exported."""
    config = _read_config(source)
    kind = config.get("_class_name", _CLASSES[0])
    if kind not in _CLASSES:
        raise ModelError(
            f"{_where(source)}: autoencoder {kind!r} is not supported; supported: {', '.join(_CLASSES)}; "
            "--without decoder leaves it out"
        )
    for key, supported in (("latents_mean", None), ("latents_std", None), ("out_channels", 3)):
        if config.get(key, supported) != supported:
            raise ModelError(f"{_where(source)}: {key}={config[key]!r} is not supported")
    return kind, config


def _decoder_half(where: str, load: Callable[[], Any]) -> ImageDecoder:
    try:
        return ImageDecoder(load()).float().eval()
    except ModelError:
        raise
    except Exception as error:  # diffusers raises whatever its parts do
        raise ModelError(f"{where}: diffusers cannot load it: {first_line(error)}") from None


def _random(kind: str, config: Mapping[str, Any], seed: int) -> Any:
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(diffusers, kind).from_config(dict(config))


def _stored(kind: str, folder: Path, variant: str) -> Any:
    """The autoencoder of a folder; what its encoder lacks does not matter."""
    import diffusers

    vae, info = getattr(diffusers, kind).from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True,
        variant=chosen_variant(folder, variant) or None,
        low_cpu_mem_usage=False,  # the other way needs accelerate
    )  # fmt: skip
    for problem, keys in (("lack", info["missing_keys"]), ("have no place for", info["unexpected_keys"])):
        ours = sorted(key for key in keys if key.startswith(("decoder.", "post_quant_conv.")))
        if ours:
            raise ModelError(f"{folder}: the weights {problem} {ours[0]!r}; it does not fit config.json")
    return vae


def _read_config(source: Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(source, Path):
        return source
    return read_json(source / "config.json", "a diffusers folder has a config.json")


def _where(source: Path | Mapping[str, Any]) -> str:
    return str(source / "config.json") if isinstance(source, Path) else "decoder config"
