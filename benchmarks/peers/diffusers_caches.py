"""diffusers' own caches, put on with diffusers.hooks: neither DiT nor PixArt has the mixin that offers enable_cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import torch
from diffusers import hooks
from diffusers.hooks.first_block_cache import FBCHeadBlockHook
from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context
from diffusers.hooks.mag_cache import MagCacheBlockHook
from numpy.typing import NDArray
from soda_runtime.philox import latent_noise
from torch import nn

from .case import Case
from .eager import DiffusersPlayer, count_flops, load_model
from .player import PeerError
from .systems import System

_CALIBRATION_SEED = 1  # not one of the requests'


class CachePlayer(DiffusersPlayer):
    """A model with hooks that remember, forgotten before every request; its blocks may be compiled."""

    def __init__(self, case: Case, system: System, shared: dict[str, Any]) -> None:
        super().__init__(case, load_model(case, system.precision, shared), system.precision)
        self._shared = shared
        options = dict(system.options)
        self.mask: list[bool] | None = options.pop("computed", None)
        self._system, self._compiled = system, options.pop("compiled", False)
        if self._compiled:
            from .compiled import compile_blocks

            compile_blocks(case, self.model, system.precision, shared)
        apply = _APPLY[options.pop("config")]
        apply(self, {name: _tupled(value) for name, value in options.items()})
        self.begin = self._reset

    def play(self, request: int, steps: int = 0) -> NDArray[np.float32]:
        if not self._compiled:
            return super().play(request, steps)
        from .compiled import freezing

        with freezing():
            return super().play(request, steps)

    def warm(self) -> None:
        if not self._compiled:
            count_flops(self, self._shared)
            return
        options = {name: value for name, value in self._system.options.items() if name != "compiled"}
        plain = CachePlayer(self.case, msgspec.structs.replace(self._system, options=options), self._shared)
        plain.warm()
        self.flops_ratio, self.computed = plain.flops_ratio, plain.computed
        self.play(0)

    def _reset(self) -> None:
        registry = HookRegistry.check_if_exists_or_initialize(self.model)
        registry.invalidate_child_registries_cache()
        registry.reset_stateful_hooks(recurse=True)
        _set_cache_context(self.model, CacheContext("both_halves"))


def open_player(case: Case, system: System, shared: dict[str, Any]) -> DiffusersPlayer:
    """A cache of diffusers.hooks by the name of its configuration."""
    return CachePlayer(case, system, shared)


def _first_block(player: CachePlayer, options: dict[str, Any]) -> None:
    hooks.apply_first_block_cache(player.model, hooks.FirstBlockCacheConfig(**options))
    if player.mask is not None:
        head = _hook(player.model.transformer_blocks[0], FBCHeadBlockHook)
        head._should_compute_remaining_blocks = lambda residual: player.mask[player.step]


def _taylorseer(player: CachePlayer, options: dict[str, Any]) -> None:
    # its default patterns are matched whole and find no module here; factors in float32 lose nothing
    factors = torch.float32 if player.dtype == torch.float32 else torch.bfloat16
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    config = hooks.TaylorSeerCacheConfig(taylor_factors_dtype=factors, **lists)
    hooks.apply_taylorseer_cache(player.model, config)


def _pyramid(player: CachePlayer, options: dict[str, Any]) -> None:
    config = hooks.PyramidAttentionBroadcastConfig(current_timestep_callback=lambda: player.timestep, **options)
    hooks.apply_pyramid_attention_broadcast(player.model, config)


def _faster(player: CachePlayer, options: dict[str, Any]) -> None:
    if player.rows == 1:
        raise PeerError("FasterCache skips the unconditional half, and there is none without guidance")
    config = hooks.FasterCacheConfig(
        current_timestep_callback=lambda: player.timestep, attention_weight_callback=lambda _: 0.3,
        tensor_format="BCHW", **options,
    )  # fmt: skip
    config._unconditional_conditional_input_kwargs_identifiers = [
        "hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask", "class_labels",
    ]  # fmt: skip
    hooks.apply_faster_cache(player.model, config)


def _magnitude(player: CachePlayer, options: dict[str, Any]) -> None:
    """Its ratios are measured on one request of other noise, as its documentation says."""
    if player.mask is not None:  # a ratio of 1 is no error, a large one is too much
        ratios = [1e9 if computes else 1.0 for computes in player.mask]
        config = hooks.MagCacheConfig(
            mag_ratios=ratios, num_inference_steps=len(ratios), max_skip_steps=len(ratios), retention_ratio=0.0
        )  # fmt: skip
        hooks.apply_mag_cache(player.model, config)
        return
    steps, inner = player.case.sampler.steps, load_model(player.case, _name(player), player._shared)
    probe = DiffusersPlayer(player.case, inner, _name(player))
    probe.noise = torch.from_numpy(latent_noise(_CALIBRATION_SEED, 0, *_batch_and_shape(probe)))[None]
    config = hooks.MagCacheConfig(calibrate=True, num_inference_steps=steps + 1)  # one more: it forgets at the last
    hooks.apply_mag_cache(inner, config)
    probe.play(0)
    state = _hook(inner.transformer_blocks[-1], MagCacheBlockHook).state_manager.get_state()
    ready = hooks.MagCacheConfig(mag_ratios=list(state.calibration_ratios), num_inference_steps=steps, **options)
    hooks.apply_mag_cache(player.model, ready)


def _sea(player: CachePlayer, options: dict[str, Any]) -> None:
    raise PeerError("SeaCache needs a callback that finds the image tokens; diffusers has one for Cosmos 3 and Wan")


_APPLY: dict[str, Callable[[CachePlayer, dict[str, Any]], None]] = {
    "FirstBlockCache": _first_block, "TaylorSeer": _taylorseer, "PyramidAttentionBroadcast": _pyramid,
    "FasterCache": _faster, "MagCache": _magnitude, "SeaCache": _sea,
}  # fmt: skip


def _hook(module: nn.Module, kind: type) -> Any:
    return next(hook for hook in module._diffusers_hook.hooks.values() if isinstance(hook, kind))


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _name(player: DiffusersPlayer) -> str:
    return "fp32" if player.dtype == torch.float32 else "bf16"


def _batch_and_shape(player: DiffusersPlayer) -> tuple[int, tuple[int, ...]]:
    return player.noise.shape[1], tuple(player.noise.shape[2:])
