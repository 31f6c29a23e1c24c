"""A bundle of two sizes: the stored results, and lists or manifests of sizes that lie are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import BundleError, EngineError, Session
from soda_runtime.sizes import SIZES_NAME

from .bundles import GOLDEN_V5_SIZES, Json, copy_golden, drop, fix_hashes, golden_request, put, relative

OTHER = "manifest-8x24.json"
Refuses = Callable[[Path, str], None]


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_every_size_has_its_stored_latents(backend: str) -> None:
    pytest.importorskip({"ort": "onnxruntime"}.get(backend, backend))
    session = Session.open(GOLDEN_V5_SIZES, backend=backend, preload=True)
    request = golden_request(GOLDEN_V5_SIZES)
    with np.load(GOLDEN_V5_SIZES.with_name("v5-sizes.npz")) as stored:
        for size, name in (((16, 16), "latents"), ((8, 24), "latents.8x24")):
            assert relative(session.generate(**request, size=size), stored[name]) < 1e-3
            assert session.images().shape == (2, *size, 3)


def _add(entry: Json) -> Callable[[Json], object]:
    return lambda sizes: sizes["sizes"].append(entry)


LISTS: dict[str, Callable[[Json], object]] = {
    "another format": put("format", value="soda-size"),
    "a later version": put("version", value=2),
    "a version that is true": put("version", value=True),
    "no size": put("sizes", value=[]),
    "a size twice": lambda sizes: sizes["sizes"][1].update(height=16, width=16),
    "a manifest twice": _add({"height": 8, "width": 8, "manifest": OTHER}),
    "its own manifest twice": put("sizes", 1, "manifest", value="manifest.json"),
    "itself": _add({"height": 8, "width": 8, "manifest": SIZES_NAME}),
    "another first one": lambda sizes: sizes["sizes"].reverse(),
    "65 sizes": lambda sizes: sizes["sizes"].extend(
        {"height": 1, "width": n, "manifest": f"manifest-{n}.json"} for n in range(1, 64)
    ),
    "a height of zero": put("sizes", 1, "height", value=0),
    "a negative width": put("sizes", 1, "width", value=-24),
    "a width of 2**62": put("sizes", 1, "width", value=1 << 62),
    "a height that is text": put("sizes", 1, "height", value="8"),
    "a width of 24.0": put("sizes", 1, "width", value=24.0),
    "a size that its first does not make": put("sizes", 0, "height", value=24),
    "a manifest outside": put("sizes", 1, "manifest", value="../manifest.json"),
    "a manifest in a folder": put("sizes", 1, "manifest", value=f"sizes/{OTHER}"),
    "an absolute path": put("sizes", 1, "manifest", value="/etc/passwd"),
    "a manifest that is not listed": put("sizes", 1, "manifest", value="manifest-8x8.json"),
    "a name with a line break": put("sizes", 1, "manifest", value="mani\nfest.json"),
    "an unknown key": put("sizes", 1, "depth", value=1),
    "a missing key": drop("sizes", 1, "width"),
    "a list of numbers": put("sizes", value=[16, 8]),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_list_of_sizes_that_lies_is_refused(case: str, tmp_path: Path, refuses: Refuses) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_SIZES)
    _edit(folder / SIZES_NAME, LISTS[case])
    fix_hashes(folder)
    refuses(folder, SIZES_NAME)


def test_a_policy_of_one_size_alone_is_refused(tmp_path: Path, refuses: Refuses) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_SIZES)
    name = f"policy{OTHER.removeprefix('manifest')}"
    (folder / name).write_text("{}")
    for manifest in (OTHER, "manifest.json"):
        _edit(folder / manifest, put("files", name, value={"bytes": 2, "sha256": "0" * 64}))
    fix_hashes(folder)
    refuses(folder, OTHER)


def _elsewhere(files: Json) -> object:
    return files.update(other=files["tables.safetensors"])


MANIFESTS: dict[str, Callable[[Json], object]] = {
    "an older version": put("version", value=4),
    "a later version": put("version", value=6),
    "no manifest": lambda manifest: manifest.clear(),
    "another backend": put("backend", value="openvino"),
    "another precision": put("precision", value="fp16"),
    "another model": put("model", "hash", value="0" * 64),
    "another model's name": put("model", "name", value="other"),
    "another family": put("model", "family", value="dit"),
    "more sites": put("model", "sites", value=99),
    "another port": put("ports", 2, "name", value="other"),
    "another width of embeddings": put("ports", 2, "shape", value=[8, 17]),
    "another tokenizer": put("tokenizers", 0, "pad_id", value=3),
    "another sampler": put("sampler", "name", value="ddim"),
    "another guidance": put("guidance", value=2.0),
    "other weights": lambda manifest: manifest["weights"].reverse(),
    "a picture of another size": put("finish", 0, "shape", value=[3, 16, 16]),
    "a picture that is no picture": drop("finish", 0),
    "a file of another hash": put("files", "tables.safetensors", "sha256", value="0" * 64),
    "a file of another length": put("files", "tables.safetensors", "bytes", value=1),
    "a file that the bundle does not list": lambda manifest: _elsewhere(manifest["files"]),
    "a file outside": put("tables", value="../tables.safetensors"),
    "sizes of its own": lambda manifest: manifest["files"].update({SIZES_NAME: {"bytes": 1, "sha256": "0" * 64}}),
    "a cache beyond the arena": put("arena", "bytes", value=0),
    "an unknown key": put("size", value=8),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_of_another_size_that_lies_is_refused(case: str, tmp_path: Path, refuses: Refuses) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_SIZES)
    _edit(folder / OTHER, MANIFESTS[case])
    fix_hashes(folder)
    refuses(folder, OTHER)


@pytest.mark.parametrize("name", [SIZES_NAME, OTHER])
def test_a_changed_file_of_a_size_is_refused(name: str, tmp_path: Path, refuses: Refuses) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_SIZES)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b" ", b"\t", 1))
    refuses(folder, name)


def test_a_program_of_one_size_in_the_place_of_anothers_is_refused(tmp_path: Path) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_SIZES)
    first = json.loads((folder / "manifest.json").read_text())["programs"][0]["file"]

    def swap(manifest: Json) -> None:
        manifest["programs"][0]["file"] = first
        manifest["files"][first] = manifest["files"].pop(first.replace(".onnx", "-8x24.onnx"))

    _edit(folder / OTHER, swap)
    fix_hashes(folder)
    _fix_sized(folder)
    session, request = Session.open(folder), golden_request(GOLDEN_V5_SIZES)
    session.generate(**request)  # the file is open now, for the first size
    with pytest.raises(EngineError):
        session.generate(**request, size=(8, 24))


def test_a_size_whose_file_was_replaced_meanwhile_is_refused(tmp_path: Path) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_SIZES)
    session, request = Session.open(folder), golden_request(GOLDEN_V5_SIZES)
    session.generate(**request)
    path = next(folder.glob("program-00-*.onnx"))
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(BundleError, match="changed since the bundle was opened"):
        session.generate(**request, size=(8, 24))


def _edit(path: Path, change: Callable[[Json], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _fix_sized(folder: Path) -> None:
    """Let the other size's manifest agree with the bundle's about its files."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    _edit(folder / OTHER, lambda manifest: manifest.update(files={name: files[name] for name in manifest["files"]}))
    fix_hashes(folder)
