"""cache-dit's DBCache, an optional package, on the diffusers model."""

from __future__ import annotations

import logging
from typing import Any

from .case import Case
from .eager import DiffusersPlayer, count_flops, load_model
from .player import PeerError
from .systems import System


class CacheDitPlayer(DiffusersPlayer):
    """A model whose blocks cache-dit has replaced."""

    def __init__(self, case: Case, system: System, shared: dict[str, Any]) -> None:
        try:
            import cache_dit
            from cache_dit.caching.patch_functors import DiTPatchFunctor
        except ImportError as error:
            raise PeerError(
                f"cache-dit cannot be imported ({error}); pip install -r benchmarks/peers/requirements.txt"
            ) from None
        logging.getLogger("CACHE_DIT").setLevel(logging.ERROR)
        super().__init__(case, load_model(case, system.precision, shared), system.precision)
        options = dict(system.options)
        order, mask = options.pop("taylorseer_order", 0), options.pop("computed", None)
        if mask is not None:
            options |= {"steps_computation_mask": [int(on) for on in mask], "steps_computation_policy": "static"}
        is_dit = type(self.model).__name__ == "DiTTransformer2DModel"
        adapter = cache_dit.BlockAdapter(
            transformer=self.model, blocks=self.model.transformer_blocks,
            forward_pattern=cache_dit.ForwardPattern.Pattern_3, has_separate_cfg=False,
            patch_functor=DiTPatchFunctor() if is_dit else None,
        )  # fmt: skip
        config = cache_dit.DBCacheConfig(num_inference_steps=case.sampler.steps, enable_separate_cfg=False, **options)
        calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order) if order else None
        cache_dit.enable_cache(adapter, cache_config=config, calibrator_config=calibrator)
        self._shared = shared
        self._config, self._calibrator, self._library = config, calibrator, cache_dit
        self.begin = self._refresh

    def _refresh(self) -> None:
        self._library.refresh_context(self.model, cache_config=self._config, calibrator_config=self._calibrator)

    def warm(self) -> None:
        count_flops(self, self._shared)


def open_player(case: Case, system: System, shared: dict[str, Any]) -> DiffusersPlayer:
    """DBCache with the system's settings."""
    return CacheDitPlayer(case, system, shared)
