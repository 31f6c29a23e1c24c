"""Load one autoencoder of diffusers, its decoder's weights checked, or make one of random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import ModelError, UsageError, first_line
from ...models.checkpoint import chosen_variant
from ..tensor_file import refuse_pickled
from .source import DecoderSource


def load_autoencoder(
    source: DecoderSource, used: Sequence[str] = ("decoder.", "post_quant_conv."), part: str = "vae"
) -> Any:
    """A part in fp32 and evaluation mode. used: how names of the weights begin that must be there, and no others.

    Raises ModelError, and UsageError for a part without a folder or a seed.
    """
    place, kind = source.parts[part], source.kind if part == "vae" else str(source.config(part)["_class_name"])
    if not isinstance(place, Path):
        seed = source.seed
        if seed is None:
            raise UsageError("a decoder without a folder needs a seed for its random weights")
        return _loaded(source.where(part), lambda: _random(kind, place, seed))
    refuse_pickled(place)
    return _loaded(str(place), lambda: _stored(kind, place, source.variant, tuple(used)))


def empty_autoencoder(source: DecoderSource, part: str = "vae") -> Any:
    """A part without memory for its weights, to work out shapes with. Raises ModelError."""
    import diffusers

    with torch.device("meta"):
        config, maker = dict(source.config(part)), getattr(diffusers, source.kind)
        return _loaded(source.where(part), lambda: maker.from_config(config))


def _loaded(where: str, load: Callable[[], Any]) -> Any:
    try:
        return load().float().eval()
    except ModelError:
        raise
    except Exception as error:  # diffusers raises whatever its parts do
        raise ModelError(f"{where}: diffusers cannot load it: {first_line(error)}") from None


def _random(kind: str, config: Mapping[str, Any], seed: int) -> Any:
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(diffusers, kind).from_config(dict(config))


def _stored(kind: str, folder: Path, variant: str, used: tuple[str, ...]) -> Any:
    """The autoencoder of a folder; what its encoder lacks does not matter."""
    import diffusers

    vae, info = getattr(diffusers, kind).from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True,
        variant=chosen_variant(folder, variant) or None,
        low_cpu_mem_usage=False,  # the other way needs accelerate
    )  # fmt: skip
    for problem, keys in (("lack", info["missing_keys"]), ("have no place for", info["unexpected_keys"])):
        ours = sorted(key for key in keys if key.startswith(used))
        if ours:
            raise ModelError(f"{folder}: the weights {problem} {ours[0]!r}; it does not fit config.json")
    return vae
