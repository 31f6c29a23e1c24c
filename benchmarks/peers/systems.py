"""What is measured: every system, its settings, and the process that plays it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

OURS = "soda-export"
EAGER, COMPILED, REFERENCE, SKIPPING = "diffusers eager", "torch.compile", "SODA reference", "SmoothCache hooks"


class System(msgspec.Struct, frozen=True):
    """kind: file in this folder that plays it. options: for it. baseline: key of the same engine computing everything,
    what realization is against. flops_ratio: of its plan, 0 where it is counted while playing, 1 for a baseline.
    host: systems of one host share a process while latencies are measured. reason: why it cannot run."""

    system: str
    setting: str
    precision: str
    kind: str
    host: str
    options: dict[str, Any] = {}
    flops_ratio: float = 0.0
    baseline: str = ""
    reason: str = ""

    @property
    def key(self) -> str:
        """Unique within a model."""
        return f"{self.system} | {self.setting} | {self.precision}"


_LAYERS = r"transformer_blocks\.\d+"
_MODULES = rf"{_LAYERS}\.(attn\d|ff)"
_CACHES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "diffusers FirstBlockCache": [
        (f"threshold {value:g}", {"threshold": value}) for value in (0.1, 0.2, 0.4)
    ],
    "diffusers TaylorSeer": [
        *((f"interval {n}, order 1",
           {"cache_interval": n, "max_order": 1, "cache_identifiers": [_MODULES]}) for n in (2, 3)),
        *((f"lite, interval {n}",
           {"cache_interval": n, "max_order": 1, "skip_predict_identifiers": [_LAYERS],
            "cache_identifiers": [r"proj_out(_2)?"]}) for n in (2, 3)),
    ],
    "diffusers PyramidAttentionBroadcast": [
        ("spatial 2, cross 2, timesteps 100-800",
         {"spatial_attention_block_skip_range": 2, "cross_attention_block_skip_range": 2}),
        ("spatial 2, cross 6, timesteps 100-950",
         {"spatial_attention_block_skip_range": 2, "cross_attention_block_skip_range": 6,
          "spatial_attention_timestep_skip_range": [100, 950], "cross_attention_timestep_skip_range": [100, 950]}),
    ],
    "diffusers FasterCache": [
        ("defaults", {}),
        ("timesteps below 901", {"spatial_attention_timestep_skip_range": [-1, 901],
                                 "unconditional_batch_timestep_skip_range": [-1, 901]}),
    ],
    "diffusers MagCache": [(f"threshold {value:g}", {"threshold": value}) for value in (0.06, 0.24)],
    "diffusers SeaCache": [("", {})],
}  # fmt: skip
_COMPILED_CACHES = [
    (name, *_CACHES[name][index])
    for name, index in (("diffusers FirstBlockCache", 0), ("diffusers FirstBlockCache", 1), ("diffusers TaylorSeer", 2))
]  # fmt: skip
_CACHE_DIT: list[tuple[str, dict[str, Any]]] = [
    *((f"DBCache F1B0, threshold {value:g}", {"Fn_compute_blocks": 1, "residual_diff_threshold": value,
       "max_warmup_steps": 4}) for value in (0.08, 0.16, 0.32)),
    ("DBCache F1B0, threshold 0.16, TaylorSeer order 1",
     {"Fn_compute_blocks": 1, "residual_diff_threshold": 0.16, "max_warmup_steps": 4, "taylorseer_order": 1}),
]  # fmt: skip
_COMPILE: list[tuple[str, dict[str, Any]]] = [
    ("freezing", {}),
    ("freezing, max-autotune", {"max_autotune": True}),
]  # fmt: skip


def torch_systems(precision: str) -> list[System]:
    """Peers that play the diffusers model in torch."""
    base = System(EAGER, "", precision, "eager", f"torch-{precision}", flops_ratio=1.0)
    found = [base]
    for setting, options in _COMPILE:
        found.append(
            System(COMPILED, setting, precision, "compiled", f"compile-{precision}", options, 1.0, baseline=base.key)
        )
    for name, settings in _CACHES.items():
        kind = {"config": name.removeprefix("diffusers ")}
        for setting, options in settings:
            found.append(
                System(name, setting, precision, "diffusers_caches", f"torch-{precision}", {**options, **kind},
                       baseline=base.key)
            )  # fmt: skip
    for name, setting, options in _COMPILED_CACHES:
        kind = {"config": name.removeprefix("diffusers "), "compiled": True}
        found.append(
            System(f"{COMPILED} + {name}", setting, precision, "diffusers_caches", f"compile-{precision}",
                   {**options, **kind}, baseline=f"{COMPILED} | {_COMPILE[0][0]} | {precision}")
        )  # fmt: skip
    for setting, options in _CACHE_DIT:
        found.append(
            System("cache-dit", setting, precision, "cache_dit_peer", f"cache-dit-{precision}", options,
                   baseline=base.key)
        )  # fmt: skip
    return found


def plan_systems(precision: str, plans: Mapping[str, tuple[Path, float]], skipping: Sequence[str]) -> list[System]:
    """Plans in eager torch, label -> (file, FLOPs ratio): those of `skipping` by hooks on the diffusers model, the
    others by our reference interpreter."""
    host, found = f"torch-{precision}", []
    base = System(REFERENCE, "everything computed", precision, "reference_peer", host, {"plan": ""}, 1.0)
    found.append(base)
    eager = System(EAGER, "", precision, "eager", host)
    for label, (path, ratio) in plans.items():
        hooks = label in skipping
        found.append(
            System(SKIPPING if hooks else REFERENCE, label, precision, "smoothcache_hooks" if hooks else base.kind,
                   host, {"plan": str(path)}, 0.0 if hooks else ratio, (eager if hooks else base).key)
        )  # fmt: skip
    return found


BACKEND_NAMES = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}


def bundle_system(backend: str) -> str:
    """What a backend's bundles are listed as."""
    return f"{OURS} {BACKEND_NAMES[backend]}"


def bundle_systems(bundles: Mapping[tuple[str, str, str], Path | str], ratios: Mapping[str, float]) -> list[System]:
    """Our bundles, and for each backend and precision everything computed, which any of its bundles can play."""
    found: dict[str, System] = {}
    for (label, backend, precision), path in bundles.items():
        system, host = bundle_system(backend), f"{backend}-{precision}"
        options = {"bundle": str(path), "backend": backend}
        base = System(
            system, "everything computed", precision, "bundles", host, {**options, "accelerated": False}, 1.0
        )
        if isinstance(path, str):
            found[f"{system} | {label} | {precision}"] = System(
                system, label, precision, "bundles", host, flops_ratio=ratios.get(label, 0.0), reason=path
            )
            continue
        found.setdefault(base.key, base)
        mine = System(
            system, label, precision, "bundles", host, {**options, "accelerated": True}, ratios[label], base.key
        )
        found[mine.key] = mine
    return list(found.values())
