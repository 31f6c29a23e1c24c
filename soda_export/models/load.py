"""Turn a model name, a hub repository or a diffusers folder into a Denoiser and its scheduler."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .architecture import architecture_class, build_empty, check_agrees, fill_random, hash_random
from .checkpoint import hash_model, load_weights
from .denoiser import Denoiser
from .hub import DEFAULT_PARTS
from .origin import BUILTIN_FOLDER, ModelRequest, Origin, builtin_models, find_origin, resolve_folder
from .published import CONFIG_FILES, read_json

__all__ = [
    "BUILTIN_FOLDER", "DEFAULT_PARTS", "LOADERS", "LoadedModel", "ModelRequest", "builtin_models", "hash_model",
    "load_denoiser", "resolve_folder",
]  # fmt: skip
log = logging.getLogger(__name__)
_CAPTION_TOKENS = {"PixArtSigmaPipeline": 300}
_DEFAULT_CAPTION_TOKENS = 120  # PixArt-alpha's


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be profiled and exported, with the configuration of the scheduler it came with.

    folder is the diffusers folder, None for random weights; published has the configurations of parts that lie in no
    folder.
    """

    denoiser: Denoiser
    scheduler_config: dict[str, Any]
    folder: Path | None = None
    published: dict[str, Any] = field(default_factory=dict)

    def component_folder(self, part: str) -> Path | None:
        """Where a part (vae, text_encoder, tokenizer) lies, if it does."""
        place = None if self.folder is None else self.folder / part
        return place if place is not None and place.is_dir() else None

    def component_config(self, part: str) -> dict[str, Any] | None:
        """The configuration of a part: its folder's, else the published one."""
        folder = self.component_folder(part)
        path = None if folder is None else folder / CONFIG_FILES.get(part, "config.json")
        if path is not None and path.is_file():
            return read_json(path, "")
        config: dict[str, Any] | None = self.published.get(part)
        return config


@dataclass(frozen=True)
class Family:
    """How a diffusers class becomes a Denoiser.

    check(config's path, empty model) refuses what would not be reproduced exactly. convert(model, name, fingerprint,
    whether a VAE follows, most caption tokens) uses the model up.
    """

    check: Callable[[Path, Any], None]
    convert: Callable[[Any, str, str, bool, int], Denoiser]


def load_denoiser(request: ModelRequest | str, parts: tuple[str, ...] = DEFAULT_PARTS) -> LoadedModel:
    """Load a model of a supported architecture; of a hub repository only the named parts are fetched."""
    import torch

    request = ModelRequest(request) if isinstance(request, str) else request
    origin = find_origin(request, parts)
    kind = architecture_class(origin.config_path, origin.config, list(LOADERS))
    if origin.expected is not None:
        check_agrees(origin.config_path, origin.config, kind, origin.expected, request.model)
    model = build_empty(kind, origin.config_path, origin.config)
    LOADERS[kind].check(origin.config_path, model)
    with torch.no_grad():
        if origin.transformer is not None:
            fingerprint = hash_model(origin.transformer)
            load_weights(model, origin.transformer)
        else:
            assert request.random_weights is not None
            fingerprint = hash_random({**origin.config, "_class_name": kind}, request.random_weights)
            fill_random(model, request.random_weights)
        has_vae = (origin.folder is not None and (origin.folder / "vae").is_dir()) or "vae" in origin.published
        denoiser = LOADERS[kind].convert(model, origin.name, fingerprint, has_vae, _caption_tokens(origin))
    spec = denoiser.spec
    log.info("model %s: %d layers, %d tokens, width %d", spec.name, spec.num_layers, spec.num_tokens, spec.width)
    return LoadedModel(denoiser, origin.scheduler, origin.folder, origin.published)


def _caption_tokens(origin: Origin) -> int:
    """Length that captions are padded to: the pipeline's, but no more than the tokenizer gives."""
    count = _CAPTION_TOKENS.get(str(origin.published.get("pipeline")), _DEFAULT_CAPTION_TOKENS)
    path = None if origin.folder is None else origin.folder / "tokenizer/tokenizer_config.json"
    if path is not None and path.is_file():
        longest = read_json(path, "").get("model_max_length", count)
        if not isinstance(longest, int | float) or longest < 1:
            raise ModelError(f"{path}: model_max_length={longest!r} is no number of tokens")
        count = int(min(count, longest))
    return count


def _convert_dit(model: Any, name: str, fingerprint: str, has_vae: bool, max_tokens: int) -> Denoiser:
    from .dit import DitDenoiser, dit_spec

    return DitDenoiser(model, dit_spec(model, name, fingerprint, has_vae))


def _check_dit(path: Path, model: Any) -> None:
    """Refuse what the dit family would not reproduce exactly."""
    config = model.config
    if config.sample_size % config.patch_size:
        sizes = f"sample_size={config.sample_size}, patch_size={config.patch_size}"
        raise ModelError(f"{path}: {sizes}: the first must be a multiple of the second")
    if (config.out_channels or config.in_channels) < config.in_channels:
        raise ModelError(f"{path}: out_channels={config.out_channels} is less than in_channels={config.in_channels}")
    if config.norm_elementwise_affine:
        raise ModelError(f"{path}: norm_elementwise_affine=true is not supported")
    if type(model.transformer_blocks[0].ff.net[0]).__name__ != "GELU":
        raise ModelError(
            f"{path}: activation_fn={config.activation_fn!r} is not supported; "
            "the dit family has gelu and gelu-approximate"
        )


def _convert_pixart(model: Any, name: str, fingerprint: str, has_vae: bool, max_tokens: int) -> Denoiser:
    from .pixart import PixArtDenoiser, pixart_spec

    return PixArtDenoiser(model, pixart_spec(model, name, fingerprint, has_vae, max_tokens))


def _check_pixart(path: Path, model: Any) -> None:
    from .pixart import check_pixart_config

    check_pixart_config(path, model)


LOADERS: dict[str, Family] = {
    "DiTTransformer2DModel": Family(_check_dit, _convert_dit),
    "PixArtTransformer2DModel": Family(_check_pixart, _convert_pixart),
}
"""Class of the transformer in config.json -> how it becomes a Denoiser"""
