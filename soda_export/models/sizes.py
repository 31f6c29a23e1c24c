"""What the user asked for, a family's record and a model's configurations, as the sizes that the record reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from typing import Any

from ..errors import ModelError
from .family import Family, Size, Sizes
from .origin import Origin
from .published import read_json
from .request import ModelRequest, parse_size

BUILTIN_SIZES = {"clips": Size(64, 64, 4, 4.0), "shapes-flux": Size(64, 64)}
"""Built-in model whose configuration does not say it -> size of what it makes."""
_MOST_FPS = 1000.0  # of the bundle's format
_MOST_SECONDS = 3600.0  # UNets attend to every frame from every frame: memory ends long before


def read_sizes(family: Family, config: Mapping[str, Any], origin: Origin, request: ModelRequest) -> Sizes:
    """Sizes of a model of that family. Raises ModelError for a request that the family cannot follow."""
    size = _size(family, BUILTIN_SIZES.get(request.model, family.size), request)
    sizes = Sizes(config, origin.published, _text_tokens(family, origin), size)
    unit = 1 if family.cuts else sizes.pixels_per_latent * max(family.patch, _patch(config))
    for side in (size.height, size.width):
        if side < 0 or side % unit:
            raise ModelError(f"{_option(request)}: must be a multiple of {unit} pixels")
    return replace(sizes, latent_shape=family.latent_shape(sizes))


def size_key(request: ModelRequest) -> list[str]:
    """What a model's hash depends on beside its configuration and weights: whatever the user chose of its size."""
    chosen = [str(request.image_size)] if request.image_size else []
    chosen += [f"size={size}" for size in request.size]
    for name in ("frames", "fps", "seconds"):
        value = getattr(request, name)
        chosen += [f"{name}={value}"] if value is not None else []
    return chosen


def made_size(sizes: Sizes) -> tuple[int, int]:
    """Height and width in pixels of what latents of that shape stand for; zeros for what has none."""
    side, shape, size = sizes.pixels_per_latent, sizes.latent_shape, sizes.size
    if len(shape) > 2:
        return (shape[-2] * side, shape[-1] * side)
    own = 2 * side * isqrt(shape[0])  # packed, two by two
    return (size.height or own, size.width or own)


def _patch(config: Mapping[str, Any]) -> int:
    """Side in latents of what becomes a token, where the configuration says it as one number."""
    patch = config.get("patch_size")
    return patch if isinstance(patch, int) else 1


def _size(family: Family, own: Size, request: ModelRequest) -> Size:
    """The model's own size with what the user chose of it."""
    size = own
    if request.size or request.image_size:
        height, width = _sides(request)
        if family.sounds:
            raise ModelError(f"{_option(request)}: a sound has a length; give --seconds")
        if not family.any_size:
            raise ModelError(f"{_option(request)}: a {family.name} model has the one size that it was trained for")
        size = replace(size, height=height, width=width)
    for option, value in (("--frames", request.frames), ("--fps", request.fps)):
        if value is not None and not own.frames:
            raise ModelError(f"{option} {value:g}: a {family.name} model makes no clips; leave it out")
    if request.frames is not None:
        if request.frames < 1:
            raise ModelError(f"--frames {request.frames}: a clip has at least one")
        size = replace(size, frames=request.frames)
    if request.fps is not None:
        if not 1 / _MOST_FPS <= request.fps <= _MOST_FPS:
            raise ModelError(f"--fps {request.fps:g}: must be within {1 / _MOST_FPS:g} .. {_MOST_FPS:g}")
        size = replace(size, fps=request.fps)
    return size if request.seconds is None else replace(size, seconds=_seconds(family, request.seconds))


def _seconds(family: Family, seconds: float) -> float:
    if not family.sounds:
        raise ModelError(f"--seconds {seconds:g}: a {family.name} model makes no sounds; leave it out")
    if not 0 < seconds <= _MOST_SECONDS:
        raise ModelError(f"--seconds {seconds:g}: must be above 0, up to {_MOST_SECONDS:g}")
    return seconds


def _sides(request: ModelRequest) -> tuple[int, int]:
    """Height and width that were asked for."""
    if not request.size:
        assert request.image_size is not None
        return request.image_size, request.image_size
    if request.image_size is not None:
        raise ModelError("--size and --image-size: give one of them")
    if len(request.size) > 1:
        raise ModelError(f"{_option(request)}: give one size here; build puts several into one bundle")
    return parse_size(request.size[0])


def _option(request: ModelRequest) -> str:
    return f"--size {' '.join(request.size)}" if request.size else f"--image-size {request.image_size}"


def _text_tokens(family: Family, origin: Origin) -> int:
    """Length that prompts are padded to: the pipeline's, but no more than the tokenizer gives."""
    count = family.text_tokens_by_pipeline.get(str(origin.published.get("pipeline")), family.text_tokens)
    path = None if origin.folder is None else origin.folder / family.texts.tokenizer / "tokenizer_config.json"
    if path is not None and path.is_file():
        longest = read_json(path, "").get("model_max_length", count)
        if not isinstance(longest, int | float) or longest < 1:
            raise ModelError(f"{path}: model_max_length={longest!r} is no number of tokens")
        count = int(min(count, longest))
    return count
