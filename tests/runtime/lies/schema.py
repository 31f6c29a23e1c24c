"""Manifests whose keys, types, versions and printed text are wrong."""

from __future__ import annotations

from collections.abc import Callable

from ..bundles import Json, drop, put

SCHEMA: dict[str, Callable[[Json], object]] = {
    "an unknown key at the top": put("surplus", value=1),
    "an unknown key in a step": put("steps", 0, "surplus", value=1),
    "a missing key": lambda m: m.pop("arena"),
    "a missing key in a program": lambda m: m["programs"][0].pop("flops"),
    "another format": put("format", value="zip"),
    "no format": lambda m: m.pop("format"),
    "a newer version": put("version", value=6),
    "an older version": put("version", value=0),
    "a version that is a boolean": put("version", value=True),
    "a version that is a fraction": put("version", value=1.0),
    **{f"version {version} of a version 5 manifest": put("version", value=version) for version in (1, 2, 3, 4)},
    "a version that is a string": put("version", value="5"),
    "a version that is a nested list": put("version", value=[[[[1]]]]),
    "a version of 4000 digits": put("version", value=10**4000),
    "an unknown precision": put("precision", value="fp64"),
    "a boolean for a count": put("sampler", "steps", value=True),
    "a number for a flag": put("sampler", "stochastic", value=1),
    "a sampler that does not say whether it is fitted": drop("sampler", "fitted"),
    "a number for a correction": put("sampler", "fitted", value=0),
    "null for a correction": put("sampler", "fitted", value=None),
    "a correction at the top": put("fitted", value=False),
    "a string for a number": put("guidance", value="1.5"),
    "null for a number": put("model", "sites", value=None),
    "a fraction for a count": put("arena", "bytes", value=12288.0),
    "pixels of two sides": put("model", "latent_shape", value=[8, 8]),
    # what is printed must not steer a terminal
    "an escape sequence in a name": put("model", "name", value="\x1b]0;title\x07"),
    "a line break in the builder": put("builder", value="soda-export\nplain"),
    "a NUL in a family": put("model", "family", value="dit\0"),
    "a control character beyond ASCII": put("sampler", "name", value="ddim\x9b2J"),
    "a change of direction": put("model", "name", value="\u202egnp.exe"),
    "a line separator": put("model", "hash", value="0\u2028"),
    "an unknown key that is very long": put("x" * 1_000_000, value=1),
    "an arena of 10**4000 bytes": put("arena", "bytes", value=10**4000),
    "a count of 4000 digits": put("model", "sites", value=10**4000),
}  # fmt: skip
