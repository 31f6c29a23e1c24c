"""Toy denoisers as eager models: diffusers' classes with random weights and a description made by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel
from torch import Tensor, nn

from soda_export.eager.conditions import Conditions
from soda_export.eager.hints import random_conditions
from soda_export.eager.model import EagerModel
from soda_export.models.families.dit import DIT
from soda_export.models.families.pixart import PIXART
from soda_export.models.family import Constant, Family, Sizes
from soda_export.models.load import ModelRequest, load_model
from soda_export.models.paths import site_modules
from soda_export.models.spec import STACK, ModelSpec, Site
from tests.tiny_models import save_tiny_flux, save_tiny_sd3

LAYERS, TOKENS, CLASSES = 3, 16, 10


def toy_dit(seed: int = 0, **config: Any) -> EagerModel:
    """3 layers, 16 tokens, width 16, latents [1, 8, 8], 10 classes."""
    torch.manual_seed(seed)
    settings = {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 1, "out_channels": 1, "num_layers": LAYERS,
        "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": CLASSES,
    }  # fmt: skip
    return eager_model(_stirred(DiTTransformer2DModel(**{**settings, **config})), DIT)


def toy_pixart(seed: int = 0, **config: Any) -> EagerModel:
    """3 layers, 16 tokens, width 48, latents [4, 8, 8], texts of 8 tokens."""
    torch.manual_seed(seed)
    settings = {
        "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 8, "num_layers": LAYERS,
        "cross_attention_dim": 48, "caption_channels": 16, "sample_size": 8, "patch_size": 2,
        "use_additional_conditions": True,
    }  # fmt: skip
    return eager_model(_stirred(PixArtTransformer2DModel(**{**settings, **config})), PIXART, text_tokens=8)


@cache
def digits() -> EagerModel:
    """The built-in model of digits, trained."""
    return EagerModel.of(load_model("digits"))


@cache
def toy_flux() -> EagerModel:
    """2 double and 2 single layers, texts of 512 tokens, images of 1024; latents [1024, 16]."""
    with TemporaryDirectory() as folder:
        return EagerModel.of(load_model(ModelRequest(str(save_tiny_flux(Path(folder) / "flux")), image_size=128)))


@cache
def toy_sd3() -> EagerModel:
    """3 layers, the first with a second attention, the last without a text's output; latents [4, 8, 8]."""
    with TemporaryDirectory() as folder:
        return EagerModel.of(load_model(str(save_tiny_sd3(Path(folder) / "sd3"))))


def eager_model(module: nn.Module, family: Family, text_tokens: int = 0) -> EagerModel:
    """A module with every token renewable. FLOPs are made up: all sites but the stack cost 100 a token and 1 a row."""
    config: Any = module.config
    sizes = Sizes(config, {}, text_tokens)
    sizes = Sizes(config, {}, text_tokens, latent_shape=family.latent_shape(sizes))
    tokens = (config.sample_size // config.patch_size) ** 2
    width = config.num_attention_heads * config.attention_head_dim
    sites, last = [], config.num_layers - 1
    layers = {site: int(site.path.split(".")[1]) for site in site_modules(module, family)}
    for site in sorted(layers, key=lambda site: (site.rule.kind == STACK, layers[site])):
        is_stack = site.rule.kind == STACK
        renewable = tokens if site.rule.renew else 0
        sites.append(
            Site(
                site.path, site.rule.kind, layers[site] / last if last else 0.0, ((tokens, width),),
                flops=100 * tokens if is_stack else 100 * tokens + 1, tokens=renewable, kept_flops=(1, 100),
                inside="" if is_stack else f"transformer_blocks.{last}",
            )
        )  # fmt: skip
    spec = ModelSpec(
        f"toy-{family.name}", family.name, "0" * 64, tuple(sites), family.ports(sizes), sizes.latent_shape,
        family.prediction_shape(sizes), "latents",
    )  # fmt: skip
    constants = {name: a.make(sizes) for name, a in family.arguments.items() if isinstance(a, Constant)}
    return EagerModel(module, family, spec, constants)


def toy_conditions(model: EagerModel, texts: int = 4, seed: int = 0) -> Conditions:
    """Every class in turn, or random texts."""
    return random_conditions(model.spec, texts, seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _stirred(module: nn.Module) -> nn.Module:
    """diffusers leaves some parameters at zero, where nothing could be compared."""
    for parameter in module.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return module
