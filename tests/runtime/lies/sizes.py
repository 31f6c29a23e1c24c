"""Manifests whose numbers are negative, huge or do not fit together."""

from __future__ import annotations

from collections.abc import Callable

from ..bundles import Json, both, drop, put
from .edits import name_slot

SIZES: dict[str, Callable[[Json], object]] = {
    "a negative number of steps": put("sampler", "steps", value=-1),
    "ten million steps": put("sampler", "steps", value=10_000_000),
    "fewer timesteps than steps": put("sampler", "timesteps", value=[1]),
    "fewer steps than the sampler has": lambda m: m["steps"].pop(),
    "no steps at all": both(
        put("sampler", "steps", value=0), put("sampler", "timesteps", value=[]), put("steps", value=[]),
    ),
    "a negative number of sites": put("model", "sites", value=-1),
    "latents of no sides": put("model", "latent_shape", value=[]),
    "latents of five sides": both(put("model", "latent_shape", value=[1] * 5), put("model", "output", value="latents")),
    "latents of 2**36 elements": both(
        put("model", "latent_shape", value=[1 << 18, 1 << 18]), put("model", "output", value="latents"),
    ),
    "a latent side of zero": put("model", "latent_shape", value=[1, 0, 8]),
    "a negative latent side": put("model", "latent_shape", value=[1, 8, -8]),
    "a latent side of 2**62": put("model", "latent_shape", value=[1, 8, 1 << 62]),
    "a slot 2**62 wide": put("slots", 0, "shape", 1, value=1 << 62),
    "a slot of 2**36 elements": put("slots", 0, "shape", value=[1 << 18, 1 << 18]),
    "a slot of a negative side": put("slots", 0, "shape", 0, value=-16),
    "a slot of two negative sides": put("slots", 0, "shape", value=[-16, -16]),
    "a slot of no axes": put("slots", 0, "shape", value=[]),
    "a slot of seven axes": put("slots", 0, "shape", value=[1] * 7),
    "a slot of whole numbers": put("slots", 0, "dtype", value="int64"),
    "a slot without a type": drop("slots", 0, "dtype"),
    "16385 slots": lambda m: m["slots"].extend({**m["slots"][0], "name": f"more.{i}"} for i in range(16385)),
    "two slots of one name": lambda m: m["slots"].append(m["slots"][0]),
    **{f"a slot named {name!r:.20}": name_slot(name) for name in (
        "", ".attn", "Attn", "0.attn#0", "0.attn#10", "0.attn#", "0.attn@1", "0 attn", "0.attn\n", "a" * 97, "ä", "#1",
    )},
    "a negative class": put("ports", 0, "null_class", value=-1),
    "no classes": put("ports", 0, "num_classes", value=0),
    "2**25 classes": put("ports", 0, "num_classes", value=1 << 25),
    "a state of 2**40 tensors": put("sampler", "state_size", value=1 << 40),
    "three rows a sample": put("rows_per_sample", value=3),
    "a tensor of 2**50 entries": put("tensors", 0, "shape", 1, value=1 << 50),
    "a tensor of 2**40 elements": put("tensors", 0, "shape", value=[1 << 20, 1 << 20]),
    "a tensor of 2**36 elements in six axes": put("tensors", 0, "shape", value=[64] * 6),
    "a tensor of a negative count": put("tensors", 0, "shape", 0, value=-20),
    "a tensor of two negative counts": put("tensors", 0, "shape", value=[-20, -16]),
    "a tensor of no elements": put("tensors", 0, "shape", 0, value=0),
    "a tensor of no axes": put("tensors", 0, "shape", value=[]),
    "a tensor of seven axes": put("tensors", 0, "shape", value=[1] * 7),
    "10**6 axes": put("tensors", 0, "shape", value=[9] * 1_000_000),
    "no tensors": put("tensors", value=[]),
    "5000 tensors": lambda m: m["tensors"].extend({**m["tensors"][0], "name": f"t{i}"} for i in range(5000)),
    "no prepare programs": put("prepare", value=[]),
    "65 prepare programs": lambda m: m["prepare"].extend(m["prepare"] * 64),
    "no weights": put("weights", value=[]),
    "17 weights": put("weights", value=["weights.safetensors"] * 17),
    "a negative timestep": put("sampler", "timesteps", 0, value=-1),
    "a number too large for a float": put("guidance", value=10**400),
    "guidance beyond float32": put("guidance", value=1e39),
    "a scale beyond float32": put("sampler", "initial_scale", value=-1e39),
    "a null class beyond the classes": put("ports", 0, "null_class", value=11),
    "flops of 2**63": put("programs", 0, "flops", value=1 << 63),
    "negative flops": put("programs", 0, "flops", value=-1),
    "an arena of 2**62 bytes": put("arena", "bytes", value=1 << 62),
    "a negative arena": put("arena", "bytes", value=-1),
    "an arena of a byte more than three values of every slot": put("arena", "bytes", value=7 * 3 * 2048 + 1),
    "slots of one size for all, as in version 4": put("arena", "slot_bytes", value=2048),
}  # fmt: skip
