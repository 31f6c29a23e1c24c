"""A denoiser's configuration to an empty model of its class, diffusers' or ours."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, first_line
from .own import denoiser_class, idle_settings

if TYPE_CHECKING:
    from torch import Tensor, nn

_LEGACY = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
"""norm_type of a Transformer2DModel, as older repositories say -> the class that diffusers makes of it"""
_EMA = frozenset(
    {"decay", "min_decay", "inv_gamma", "power", "optimization_step", "update_after_step", "use_ema_warmup"}
)
"""What EMAModel.save_pretrained of diffusers adds to a configuration."""
_COUNTS = (
    "num_layers", "num_attention_heads", "attention_head_dim", "patch_size", "in_channels", "depth", "num_heads",
    "hidden_size",
)  # fmt: skip
log = logging.getLogger(__name__)
_MUST_AGREE = (
    "num_layers", "num_single_layers", "num_attention_heads", "attention_head_dim", "sample_size", "patch_size",
    "in_channels", "depth", "num_heads", "hidden_size",
)  # fmt: skip


def architecture_class(path: Path, config: dict[str, Any], supported: list[str]) -> str:
    """The class of a configuration: diffusers', or by its `model_type` one of ours. path: where it stands, for the
    message."""
    kind = config.get("_class_name", config.get("model_type"))
    if kind == "Transformer2DModel":
        kind = _LEGACY.get(str(config.get("norm_type")), kind)
    if not isinstance(kind, str) or kind not in supported:
        raise ModelError(f"{path}: architecture {kind!r} is not supported; supported: {', '.join(supported)}")
    return kind


def build_empty(
    kind: str, path: Path, config: dict[str, Any], parameter: Callable[[Tensor], Tensor] | None = None
) -> nn.Module:
    """A model whose buffers are right and whose parameters are memory that nobody has written yet.

    parameter: what stands in the place of each parameter, of which only the form is known; default: the parameter.
    Raises ModelError for a configuration that diffusers cannot build.
    """
    import diffusers

    maker = denoiser_class(kind)
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    for key, allowed in idle_settings(maker).items():
        if allowed is None or settings.get(key, allowed) == allowed:
            settings.pop(key, None)
    if "quantization_config" in settings:
        raise ModelError(f"{path}: the weights are quantized (quantization_config); get them as they were before")
    _check_counts(path, settings)
    ema = {key for key in _EMA if key in settings}
    if ema:
        _warn_of_ema(path)
        settings = {key: value for key, value in settings.items() if key not in ema}
    check_kinds(path, settings, maker)
    known, legacy = _defaults(maker), _defaults(diffusers.Transformer2DModel)
    for key, value in list(settings.items()):
        if key not in known:
            if key not in legacy or legacy[key] != value:
                raise ModelError(f"{path}: {key!r} is no setting of {kind}; diffusers would ignore it")
            del settings[key]
    try:
        return empty_module(lambda: maker(**settings), parameter)
    except Exception as error:
        raise ModelError(f"{path}: diffusers cannot build {kind} from it: {first_line(error)}") from None


@cache
def _warn_of_ema(path: Path) -> None:
    log.warning("model: %s has settings of an EMA that it was averaged by in training; they change nothing here", path)


def _check_counts(path: Path, settings: Mapping[str, Any]) -> None:
    for key in _COUNTS:
        count = settings.get(key)
        if isinstance(count, int | float) and (count < 1 or count != int(count)):
            raise ModelError(f"{path}: {key}={settings[key]!r} must be a whole number of at least 1")


def check_kinds(path: Path | str, settings: Mapping[str, Any], maker: Any) -> None:
    """Refuse words and objects where a class of diffusers has a switch or a number by default: it would take a word as
    "on". Raises ModelError."""
    for key, default in _defaults(maker).items():
        value = settings.get(key)
        if isinstance(default, int | float) and isinstance(value, str | dict):
            wanted = "true or false" if isinstance(default, bool) else "a number"
            raise ModelError(f"{path}: {key}={value!r:.40} must be {wanted}")


def empty_module(make: Callable[[], nn.Module], parameter: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """What `make` gives, in evaluation mode, without the work and memory of initialising its parameters."""
    import torch

    with _without_initialisation(), _replacing_parameters(parameter), torch.random.fork_rng(devices=[]):
        return make().requires_grad_(False).eval()


def _without_initialisation() -> Any:
    """While this lasts, torch.nn.init leaves tensors as they are."""
    from torch.overrides import TorchFunctionMode

    class NoInitialisation(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if getattr(func, "__module__", None) == "torch.nn.init":
                return kwargs["tensor"] if "tensor" in kwargs else args[0]
            return func(*args, **kwargs)

    return NoInitialisation()


@contextlib.contextmanager
def _replacing_parameters(parameter: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    """While this lasts, each parameter is replaced the moment its module takes it, so that one at a time has memory."""
    from torch import nn

    own = nn.Module.register_parameter

    def register(module: nn.Module, name: str, given: nn.Parameter | None) -> None:
        own(module, name, given)
        if given is not None and parameter is not None:
            module._parameters[name] = nn.Parameter(parameter(given), requires_grad=False)

    nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = own  # type: ignore[method-assign]


def check_agrees(
    path: Path, config: dict[str, Any], kind: str, expected: dict[str, Any], supported: list[str], model: str
) -> None:
    """Refuse weights of another model than the one that --model names."""
    expected_kind = architecture_class(path, expected, supported)
    if kind != expected_kind:
        raise ModelError(f"{path}: _class_name={kind}, but --model {model} has {expected_kind}")
    defaults = _defaults(denoiser_class(kind))
    for key in filter(defaults.__contains__, _MUST_AGREE):
        found, wanted = (c.get(key, defaults[key]) for c in (config, expected))
        if found != wanted:
            raise ModelError(f"{path}: {key}={found}, but --model {model} has {key}={wanted}")


def hash_random(config: Mapping[str, Any], seed: int) -> str:
    """The fingerprint of random weights: SHA-256 over the configuration and the seed."""
    settings = {key: value for key, value in config.items() if key == "_class_name" or not key.startswith("_")}
    return hashlib.sha256(json.dumps([settings, seed], sort_keys=True).encode()).hexdigest()


def _defaults(maker: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(maker.__init__).parameters.items()}
