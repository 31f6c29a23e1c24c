"""Turn a model name or a diffusers folder into a Denoiser and its scheduler."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .denoiser import Denoiser

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be profiled and exported, with the configuration of the scheduler it came with."""

    denoiser: Denoiser
    scheduler_config: dict[str, Any]


def builtin_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(folder.name for folder in BUILTIN_FOLDER.iterdir() if (folder / "model_index.json").is_file())


def resolve_folder(model: str) -> tuple[str, Path]:
    """A built-in name or a path -> (short name, diffusers folder)."""
    if model in builtin_models():
        return model, BUILTIN_FOLDER / model
    folder = Path(model)
    if not folder.is_dir():
        raise ModelError(
            f"--model {model}: neither a built-in model ({', '.join(builtin_models())}) nor a folder; "
            "give the path of a diffusers pipeline folder"
        )
    return folder.resolve().name, folder


def load_denoiser(model: str) -> LoadedModel:
    """Load a built-in model or any diffusers pipeline folder of a supported architecture. Raises ModelError."""
    name, folder = resolve_folder(model)
    transformer = folder / "transformer"
    config = _read_json(transformer / "config.json", "a diffusers pipeline folder has transformer/config.json")
    kind = config.get("_class_name")
    if not isinstance(kind, str) or kind not in LOADERS:
        supported = ", ".join(LOADERS)
        path = transformer / "config.json"
        raise ModelError(f"{path}: architecture {kind!r} is not supported; supported: {supported}")
    scheduler = _read_json(
        folder / "scheduler/scheduler_config.json", "a diffusers pipeline folder has scheduler/scheduler_config.json"
    )
    if not list(transformer.glob("*.safetensors")):
        raise ModelError(f"{transformer}: no .safetensors weights; save the model with safe_serialization=True")
    fingerprint = hash_model(transformer)
    has_vae = (folder / "vae").is_dir()
    denoiser = LOADERS[kind](transformer, name, fingerprint, has_vae)
    spec = denoiser.spec
    log.info("model %s: %d layers, %d tokens, width %d", name, spec.num_layers, spec.num_tokens, spec.width)
    return LoadedModel(denoiser, scheduler)


def hash_model(transformer: Path) -> str:
    """SHA-256 over the names and contents of the configuration and the weights."""
    digest = hashlib.sha256()
    for path in sorted([transformer / "config.json", *transformer.glob("*.safetensors")]):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}={content}\n".encode())
    return digest.hexdigest()


def _load_dit(transformer: Path, name: str, fingerprint: str, has_vae: bool) -> Denoiser:
    import torch
    from diffusers import DiTTransformer2DModel

    from .dit import DitDenoiser, dit_spec

    try:
        model, info = DiTTransformer2DModel.from_pretrained(
            transformer, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True,
            low_cpu_mem_usage=False,  # the other way needs accelerate
        )
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{transformer}: diffusers cannot load it: {first_line}") from None
    if info["missing_keys"]:
        raise ModelError(f"{transformer}: weights lack {info['missing_keys'][0]!r}; the checkpoint is incomplete")
    unexpected = sorted(set(info["unexpected_keys"]) - {"pos_embed.pos_embed"})
    if unexpected or info["mismatched_keys"]:
        key = unexpected[0] if unexpected else info["mismatched_keys"][0]
        raise ModelError(f"{transformer}: weights have {key!r}, which the configuration has no place for")
    _check_dit_config(transformer / "config.json", model.config)
    activation = model.transformer_blocks[0].ff.net[0]
    if type(activation).__name__ != "GELU":
        raise ModelError(
            f"{transformer / 'config.json'}: activation_fn={model.config.activation_fn!r} is not supported; "
            "the dit family has gelu and gelu-approximate"
        )
    model.eval()
    return DitDenoiser(model, dit_spec(model, name, fingerprint, has_vae))


def _check_dit_config(path: Path, config: Any) -> None:
    """Refuse what the dit family would not reproduce exactly."""
    from diffusers import DiTTransformer2DModel

    known = set(inspect.signature(DiTTransformer2DModel.__init__).parameters)
    unknown = sorted(key for key in json.loads(path.read_text()) if not key.startswith("_") and key not in known)
    if unknown:
        raise ModelError(f"{path}: {unknown[0]!r} is no setting of DiTTransformer2DModel; diffusers would ignore it")
    if config.sample_size % config.patch_size:
        sizes = f"sample_size={config.sample_size}, patch_size={config.patch_size}"
        raise ModelError(f"{path}: {sizes}: the first must be a multiple of the second")
    if (config.out_channels or config.in_channels) < config.in_channels:
        raise ModelError(f"{path}: out_channels={config.out_channels} is less than in_channels={config.in_channels}")
    if config.norm_elementwise_affine:
        raise ModelError(f"{path}: norm_elementwise_affine=true is not supported")


LOADERS: dict[str, Callable[[Path, str, str, bool], Denoiser]] = {"DiTTransformer2DModel": _load_dit}
"""Class of the transformer in config.json -> (its folder, name, hash, whether a VAE follows) -> Denoiser"""


def _read_json(path: Path, expectation: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except OSError:
        raise ModelError(f"{path}: cannot be read; {expectation}") from None
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return value
