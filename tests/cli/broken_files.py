"""A folder of files that are wrong in every way, beside a sound model, plan, map and bundles, for misuses.py."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from soda_export.models.identity import SamplerIdentity
from soda_export.models.load import load_model
from soda_export.plan.plan import plan_text
from soda_export.plan.prior import uniform_map
from soda_export.plan.sensitivity import map_bytes
from tests.tiny import make_plan, mixed_kept

GOLDEN = Path(__file__).parents[1] / "golden"

JUNK: dict[str, bytes] = {
    "empty": b"", "text": b"years of work\n", "binary": bytes(range(256)) * 9, "nul": b"\0" * 64, "list": b"[]",
    "null": b"null", "number": b"7", "string": b'"x"', "deep": b"[" * 100_000, "deeper": b'{"a":' * 100_000,
    "nan": b'{"a": NaN}', "huge": b'{"format": 1e999}', "twice": b'{"format": "x", "format": "y"}',
    "utf16": '{"format": "soda-plan"}'.encode("utf-16"), "latin1": b'{"format": "\xe9"}', "object": b"{}",
    "long": b'{"format": "' + b"x" * 100_000 + b'"}', "digits": b"9" * 5000,
    "header": (8).to_bytes(8, "little") + b'{"a": 1}', "longheader": (2**63).to_bytes(8, "little") + b"{}",
}  # fmt: skip
"""Name -> content of files that are nothing that any verb reads."""

WRONG: tuple[Any, ...] = (None, True, -1, 2**70, 1e300, "", "\x1b[2J", [], {}, [None], {"a": []})
"""Values for a place in a JSON document where they make no sense."""


def make_place(folder: Path, model: Path) -> None:
    """Everything that the calls of misuses.py name."""
    for name, content in JUNK.items():
        (folder / f"{name}.json").write_bytes(content)
        (folder / f"{name}.safetensors").write_bytes(content)
        (folder / f"as-bundle-{name}").mkdir()
        (folder / f"as-bundle-{name}/manifest.json").write_bytes(content)
    (folder / "folder").mkdir()
    (folder / "folder.safetensors").mkdir()
    (folder / "dangling.json").symlink_to("nowhere")
    (folder / "loop.json").symlink_to("loop.json")
    shutil.copytree(model, folder / "model")
    shutil.copytree(GOLDEN / "v5", folder / "bundle")
    shutil.copytree(GOLDEN / "v5-text", folder / "text-bundle")
    spec = load_model(str(model)).spec
    (folder / "plan.json").write_bytes(plan_text(make_plan(spec, mixed_kept())))
    sensitivity = uniform_map(spec, SamplerIdentity("ddim", 8), 8, 1.5)
    (folder / "map.safetensors").write_bytes(map_bytes(sensitivity))
    _break_plans(folder)
    _break_maps(folder)
    _break_bundles(folder)
    _break_models(folder)
    for name, text in SCHEDULES.items():
        (folder / f"{name}.schedule").write_text(text)


SCHEDULES = {
    "short": "101", "zero": "0" * 8, "two": "[2, 1, 1, 1, 1, 1, 1, 1]", "bool": "[true, 1, 1, 1, 1, 1, 1, 1]",
    "policy": '{"cache_config": {"steps_computation_mask": "slow"}}', "nomask": '{"cache_config": {}}',
    "component": '{"tower": [1, 1]}', "block": '{"attn-99": [1, 1]}', "float": '{"attn": [1.0, 0.5]}',
    "mixed": '{"attn": 1}', "both": '{"attn": [1, 1, 1, 1, 1, 1, 1, 1], "attn1": [1, 1, 1, 1, 1, 1, 1, 1]}',
}  # fmt: skip


def places_in(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all places in a JSON document; of equal siblings in a list, the first."""
    if path:
        yield path
    if isinstance(document, dict):
        for key in document:
            yield from places_in(document[key], (*path, key))
    elif isinstance(document, list) and document:
        yield from places_in(document[0], (*path, 0))


def changed(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy with another value there, or without the place where the value is KeyError."""
    result = copy.deepcopy(document)
    parent = result
    for key in path[:-1]:
        parent = parent[key]
    if value is KeyError:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return result


def broken(document: Any, seed: int, each: int) -> Iterator[tuple[str, Any]]:
    """`each` changes of every place: it is left out, or one of WRONG."""
    rng = np.random.default_rng(seed)
    for number, path in enumerate(places_in(document)):
        for choice in rng.choice(len(WRONG) + 1, each, replace=False):
            value = KeyError if choice == len(WRONG) else WRONG[choice]
            yield f"{number}-{choice}", changed(document, path, value)


def _break_plans(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_bytes())
    changes = {
        "newer": {"version": 5, "novelty": 1}, "older": {"version": 0}, "negative": {"version": -1},
        "half": {"version": 4.5}, "guidance": {"guidance": -1.0}, "nosteps": {"steps": []},
        "word": {"steps": ["x"] * 8},
        "infinite": {"guidance": 1e300}, "coefficients": {"coefficients": [[1.0]]},
        "empty-row": {"coefficients": [[]] * 8},
        "sampler": {"sampler": plan["sampler"] | {"name": "magic"}}, "reuse": {"steps": ["reuse"] * 8},
        "other": {"model": plan["model"] | {"hash": "0" * 64}}, "forecast": {"steps": ["compute"] + ["reuse2"] * 7},
    }  # fmt: skip
    for name, change in changes.items():
        (folder / f"plan-{name}.json").write_text(json.dumps(plan | change))
    for name, document in broken(plan, 1, 2):
        (folder / f"plan-x{name}.json").write_text(json.dumps(document))


def _break_maps(folder: Path) -> None:
    path = folder / "map.safetensors"
    arrays = load_file(path)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    info = json.loads(json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["info"])

    def save(name: str, info: Any, **other: np.ndarray) -> None:
        save_file(arrays | other, folder / f"map-{name}.safetensors", {"info": json.dumps(info)})

    for samples in (0, -1, 2**60):
        save(f"samples{samples}", info | {"samples": samples})
    for name, array in (
        ("int", np.nan_to_num(arrays["reuse_error"]).astype(np.int32)), ("bool", arrays["reuse_error"] > 0),
        ("half", arrays["reuse_error"].astype(np.float16)), ("negative", -arrays["reuse_error"]),
        ("infinite", arrays["reuse_error"] * np.float32(np.inf)), ("flat", arrays["reuse_error"].ravel()),
        ("none", arrays["reuse_error"][:0]),
    ):  # fmt: skip
        save(name, info, reuse_error=np.ascontiguousarray(array))
    save("more", info, more=np.zeros(1, np.float32))
    for name, document in broken(info, 2, 1):
        save(f"x{name}", document)


def _break_bundles(folder: Path) -> None:
    """Manifests that are no manifest, on files that are there."""
    manifest = json.loads((folder / "bundle/manifest.json").read_bytes())
    for name, document in broken(manifest, 3, 1):
        out = folder / f"bundle-x{name}"
        out.mkdir()
        for path in (folder / "bundle").iterdir():
            if path.name != "manifest.json":
                os.link(path, out / path.name)
        (out / "manifest.json").write_text(json.dumps(document))
    for name, (file, content) in {
        "nograph": ("step-00.onnx", None), "weights": ("weights.safetensors", b""),
        "tables": ("tables.safetensors", b"x"),
        "short": ("weights.safetensors", (folder / "bundle/weights.safetensors").read_bytes()[:-1]),
    }.items():  # fmt: skip
        shutil.copytree(folder / "bundle", folder / f"bundle-{name}")
        (folder / f"bundle-{name}" / file).unlink()
        if content is not None:
            (folder / f"bundle-{name}" / file).write_bytes(content)


def _break_models(folder: Path) -> None:
    """Configurations and weights of a diffusers folder."""
    files = ("transformer/config.json", "scheduler/scheduler_config.json")
    for number, file in enumerate(files):
        document = json.loads((folder / "model" / file).read_bytes())
        for name, changed_document in broken(document, 4 + number, 1):
            _model(folder, f"model-{number}x{name}", file, json.dumps(changed_document).encode())
        for junk in ("empty", "binary", "list", "deep", "utf16", "nan", "digits"):
            _model(folder, f"model-{number}{junk}", file, JUNK[junk])
        _model(folder, f"model-{number}none", file, None)
    weights = "transformer/diffusion_pytorch_model.safetensors"
    for junk in ("empty", "text", "header", "longheader", "nul"):
        _model(folder, f"model-w{junk}", weights, JUNK[junk])
    _model(folder, "model-wnone", weights, None)
    whole = (folder / "model" / weights).read_bytes()
    _model(folder, "model-wshort", weights, whole[: len(whole) // 2])
    for junk in ("empty", "list", "deep", "object"):
        out = _model(folder, f"model-i{junk}", weights, None)
        (out / f"{weights}.index.json").write_bytes(JUNK[junk])
    for name, place in (("up", "../x.safetensors"), ("gone", "gone.safetensors"), ("number", 7)):
        out = _model(folder, f"model-i{name}", weights, None)
        (out / f"{weights}.index.json").write_text(json.dumps({"weight_map": {"a": place}}))


def _model(folder: Path, name: str, file: str, content: bytes | None) -> Path:
    out = folder / name
    shutil.copytree(folder / "model", out, copy_function=os.link)
    (out / file).unlink()
    if content is not None:
        (out / file).write_bytes(content)
    return out
