"""A bundle whose files are missing, changed, replaced or lying about themselves is refused when it is opened."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, BundleError, checks
from soda_runtime.checks import verify_hashes

from .bundles import (
    GOLDEN,
    GOLDENS,
    Json,
    copy_golden,
    edit_manifest,
    fix_hashes,
    flip_bit,
    retable,
    safetensors_bytes,
    split_safetensors,
    zeros,
)  # fmt: skip

Refuses = Callable[[Path, str], None]
FILES = sorted(path.name for path in GOLDEN.iterdir())
LISTED = [name for name in FILES if name != "manifest.json"]
WEIGHTS_BYTES = (GOLDEN / "weights.safetensors").stat().st_size


@pytest.fixture
def impatient() -> Iterator[None]:
    """Interrupts a test that hangs, as opening a pipe would."""

    def interrupt(*_: object) -> None:
        raise AssertionError("opening the bundle hangs")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).unlink()
    refuses(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_an_emptied_file_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).write_bytes(b"")
    refuses(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_a_directory_in_place_of_a_file_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    refuses(folder, name)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "tables.safetensors", "step-00.onnx"])
def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refuses(folder, name)


@pytest.mark.usefixtures("impatient")
def test_a_pipe_in_place_of_the_folder_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bundle")
    with pytest.raises(BundleError, match="no such bundle folder; `soda-export build` makes one"):
        Bundle.open(tmp_path / "bundle", backend="null")


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_the_same_file_is_followed(folder: Path, opens: Callable[[Path], None], name: str) -> None:
    """As in the caches of model hubs, where every file is a link to a blob of its hash."""
    blob = (folder / name).rename(folder.parent / "blob")
    (folder / name).symlink_to(Path("..") / blob.name)
    opens(folder)


@pytest.mark.parametrize("name", LISTED)
def test_a_link_to_other_content_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    blob = (folder / name).rename(folder.parent / "blob")
    flip_bit(blob, -1)
    (folder / name).symlink_to(blob)
    refuses(folder, name)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "tables.safetensors", "step-00.onnx"])
def test_a_link_to_a_pipe_or_a_folder_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder.parent / "pipe")
    for target in (folder.parent / "pipe", folder.parent):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
        refuses(folder, name)


def test_a_link_to_nothing_is_refused(folder: Path, refuses: Refuses) -> None:
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").symlink_to(folder / "nothing")
    refuses(folder, "weights.safetensors")


@pytest.mark.parametrize("place", ["", "missing", "manifest.json", "nul\0"])
def test_a_folder_that_is_none_is_refused(folder: Path, place: str) -> None:
    target = folder / place if place else folder.parent
    with pytest.raises(BundleError, match=r"manifest.json: missing|no such bundle folder"):
        Bundle.open(target, backend="null")


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "tables.safetensors", "step-00.onnx"])
def test_a_file_that_cannot_be_opened_is_refused(
    folder: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = io.open

    def refusing(path: Any, *arguments: Any, **options: Any) -> Any:
        if path == folder / name:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(io, "open", refusing)
    refuses(folder, name)


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_a_flipped_bit_in_any_file_is_refused(folder: Path, refuses: Refuses, name: str, share: float) -> None:
    flip_bit(folder / name, int(share * ((folder / name).stat().st_size - 1)))
    refuses(folder, name)


@pytest.mark.parametrize("position", [0, 7, 8, 9, 100, 1000, 5000, WEIGHTS_BYTES // 2, WEIGHTS_BYTES - 5, -1])
def test_a_flipped_bit_anywhere_in_the_weights_is_refused(folder: Path, refuses: Refuses, position: int) -> None:
    flip_bit(folder / "weights.safetensors", position)
    refuses(folder, "weights.safetensors")


@pytest.mark.parametrize("name", ["weights.safetensors", "tables.safetensors", "conditioning.onnx", "plan.json"])
@pytest.mark.parametrize("kept", [1, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(folder: Path, refuses: Refuses, name: str, kept: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    refuses(folder, name)


@pytest.mark.parametrize("name", ["weights.safetensors", "tables.safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_a_truncated_file_with_a_matching_hash_is_refused(folder: Path, refuses: Refuses, name: str, kept: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    fix_hashes(folder)
    refuses(folder, name)


@pytest.mark.parametrize("name", LISTED)
def test_a_longer_file_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"\0")
    refuses(folder, name)


@pytest.mark.parametrize("name", LISTED)
def test_another_hash_in_the_manifest_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    edit_manifest(folder, lambda manifest: manifest["files"][name].update(sha256="0" * 64))
    refuses(folder, name)


@pytest.mark.parametrize("size", [0, 1, 10**9, 1 << 63, 10**300])
@pytest.mark.parametrize("name", ["weights.safetensors", "tables.safetensors", "step-05.onnx"])
def test_another_size_in_the_manifest_is_refused(folder: Path, refuses: Refuses, name: str, size: int) -> None:
    edit_manifest(folder, lambda manifest: manifest["files"][name].update(bytes=size))
    refuses(folder, name if size < 1 << 63 else "manifest.json")


def test_two_files_swapped_are_refused(folder: Path, refuses: Refuses) -> None:
    (folder / "step-02.onnx").rename(folder / "scratch")
    (folder / "step-03.onnx").rename(folder / "step-02.onnx")
    (folder / "scratch").rename(folder / "step-03.onnx")
    refuses(folder, "step-02.onnx")


def test_a_flipped_bit_in_a_large_file_is_refused(
    folder: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_SMALL_FILE_BYTES", 1000)
    flip_bit(folder / "tables.safetensors", -1)
    refuses(folder, "tables.safetensors")


def test_tables_of_64_gib_are_refused_unread(folder: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch) -> None:
    path, size = folder / "tables.safetensors", 1 << 36
    header = {
        "coefficients": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]},
        "time_embedding": {"dtype": "F32", "shape": [8, size // 32], "data_offsets": [128, 128 + size]},
    }
    content = safetensors_bytes(header)
    path.write_bytes(content)
    os.truncate(path, len(content) + 128 + size)
    edit_manifest(folder, lambda manifest: manifest["files"][path.name].update(bytes=path.stat().st_size))
    monkeypatch.setattr(checks, "_check_hash", lambda *_: None)
    original = Path.read_bytes

    def bounded(self: Path) -> bytes:
        assert self != path, "the tables were read whole"
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", bounded)
    refuses(folder, "tables.safetensors")


def test_tables_written_anew_but_unchanged_get_as_far_as_the_backend(folder: Path, refuses: Refuses) -> None:
    retable(folder, "coefficients", zeros("F32", [8, 4]))
    with pytest.raises(AssertionError, match="a backend was opened"):
        refuses(folder, "tables.safetensors")


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("coefficients", "F64", [8, 4]),
        ("coefficients", "I32", [8, 4]),
        ("coefficients", "BF16", [8, 4]),
        ("coefficients", "F32", [7, 4]),
        ("coefficients", "F32", [9, 4]),
        ("coefficients", "F32", [32]),
        ("coefficients", "F32", []),
        ("coefficients", "F32", [0, 4]),
        ("coefficients", "F32", [8, 5]),
        ("coefficients", "F32", [8, 2, 2]),
        ("time_embedding", "F64", [8, 16]),
        ("time_embedding", "F32", [1, 16]),
        ("time_embedding", "F32", [8]),
        ("surplus", "F32", [8, 4]),
        ("baseline_coefficients", "F32", [8, 4]),  # of a sampler that is not fitted
    ],
)  # fmt: skip
def test_a_table_of_another_shape_or_type_is_refused(
    folder: Path, refuses: Refuses, name: str, dtype: str, shape: list[int]
) -> None:
    retable(folder, name, zeros(dtype, shape))
    refuses(folder, "tables.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e38, -1e19])
@pytest.mark.parametrize("name", ["coefficients", "time_embedding"])
def test_a_table_of_values_that_are_no_numbers_to_compute_with_is_refused(
    folder: Path, refuses: Refuses, name: str, value: float
) -> None:
    header, content = split_safetensors(folder / "tables.safetensors")
    entry = header[name]
    data = np.frombuffer(content[slice(*entry["data_offsets"])], np.float32).copy()
    data[len(data) // 2] = value
    retable(folder, name, ("F32", entry["shape"], data.tobytes()))
    refuses(folder, "tables.safetensors")


def test_a_table_of_the_largest_values_opens(folder: Path, opens: Callable[[Path], None]) -> None:
    header, _ = split_safetensors(folder / "tables.safetensors")
    shape = header["time_embedding"]["shape"]
    retable(folder, "time_embedding", ("F32", shape, np.full(shape, 1e18, np.float32).tobytes()))
    opens(folder)


@pytest.mark.parametrize("tail", [b"\0", b"\0\0junk", b" \0", b"\0}"])
@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "tables.safetensors"])
def test_bytes_behind_the_json_are_refused(folder: Path, refuses: Refuses, name: str, tail: bytes) -> None:
    path = folder / name
    if name == "manifest.json":
        path.write_bytes(path.read_bytes() + tail)
    else:
        header, data = split_safetensors(path)
        path.write_bytes(safetensors_bytes(json.dumps(header).encode() + tail, data))
        fix_hashes(folder)
    refuses(folder, name)


def _place_in(folder: Path, location: str, graph: Any) -> None:
    """A program of the bundle that is `graph`, whose tensors lie in `location`."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(folder / "step-00.onnx", load_external_data=False)
    graph(onnx, model, location)
    (folder / "step-00.onnx").write_bytes(model.SerializeToString())
    fix_hashes(folder)


def _tensor(onnx: Any, location: str) -> Any:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    for key, value in {"location": location, "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _initializer(onnx: Any, model: Any, location: str) -> None:
    model.graph.initializer.append(_tensor(onnx, location))


def _moved(onnx: Any, model: Any, location: str) -> None:
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value


def _constant(onnx: Any, model: Any, location: str) -> None:
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["w"], value=_tensor(onnx, location)))


def _of_a_branch(onnx: Any, model: Any, location: str) -> None:
    branch = onnx.GraphProto(name="branch", initializer=[_tensor(onnx, location)])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def _of_a_function(onnx: Any, model: Any, location: str) -> None:
    node = onnx.helper.make_node("Constant", [], ["w"], value=_tensor(onnx, location))
    model.functions.append(onnx.FunctionProto(name="f", domain="d", node=[node]))


def _sparse(onnx: Any, model: Any, location: str) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=_tensor(onnx, location), dims=[1]))


@pytest.mark.parametrize("graph", [_initializer, _moved, _constant, _of_a_branch, _of_a_function, _sparse])
@pytest.mark.parametrize("location", ["../outside", "/outside", "unlisted", "./weights.safetensors", "", "w" * 5000])
def test_a_program_that_takes_weights_from_a_file_that_is_not_listed_is_refused(
    folder: Path, refuses: Refuses, graph: Any, location: str
) -> None:
    for path in (folder.parent / "outside", folder / "unlisted"):
        path.write_bytes((folder / "weights.safetensors").read_bytes())
    where = str(folder.parent / "outside") if location == "/outside" else location
    _place_in(folder, where, graph)
    refuses(folder, "step-00.onnx")


def test_a_damaged_program_that_speaks_of_locations_is_refused(folder: Path, refuses: Refuses) -> None:
    path = folder / "step-00.onnx"
    path.write_bytes(path.read_bytes()[:-7])
    fix_hashes(folder)
    refuses(folder, "step-00.onnx")


@pytest.mark.parametrize("name", ["coefficients", "time_embedding"])
def test_a_missing_table_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    retable(folder, name, None)
    refuses(folder, "tables.safetensors")


def _stretch(header: Json, data: bytes) -> bytes:
    first = min(header, key=lambda name: header[name]["data_offsets"][0])
    header[first]["data_offsets"][1] += 4
    return safetensors_bytes(header, data)


def _overlap(header: Json, data: bytes) -> bytes:
    first, second = sorted(header, key=lambda name: header[name]["data_offsets"][0])[:2]
    header[second] = header[first]
    return safetensors_bytes(header, data)


def _nested(levels: int) -> Json:
    value: Json = []
    for _ in range(levels - 1):
        value = [value]
    return value


LIES: dict[str, Callable[[Json, bytes], bytes]] = {
    "is longer than the file": lambda header, data: (1 << 20).to_bytes(8, "little") + data[:100],
    "is 2**64 - 1 bytes long": lambda header, data: b"\xff" * 8 + data,
    "is over 16 MiB": lambda header, data: safetensors_bytes(b"{}" + b" " * (16 << 20)),
    "is not an object": lambda header, data: safetensors_bytes([header], data),
    "nests too deeply": lambda header, data: safetensors_bytes(b"[" * 100_000, data),
    "has 513 levels in its metadata": lambda header, data: safetensors_bytes(
        {"__metadata__": _nested(512), **header}, data
    ),
    "has half a pair of surrogates in its metadata": lambda header, data: safetensors_bytes(
        {"__metadata__": {"title": "\ud800"}, **header}, data
    ),
    "has a key of half a pair in its metadata": lambda header, data: safetensors_bytes(
        {"__metadata__": {"\udfff": ""}, **header}, data
    ),
    "has a number beyond float64 in its metadata": lambda header, data: safetensors_bytes(
        json.dumps({"__metadata__": 0.5, **header}).replace("0.5", "1e999").encode(), data
    ),
    "claims a petabyte": lambda header, data: safetensors_bytes(
        {"w": {"dtype": "F32", "shape": [1 << 45], "data_offsets": [0, 1 << 47]}}, data
    ),
    "claims more bytes than a shape has": _stretch,
    "claims overlapping tensors": _overlap,
    "claims fewer bytes than there are": lambda header, data: safetensors_bytes(header, data + bytes(4)),
    "claims more bytes than there are": lambda header, data: safetensors_bytes(header, data[:-4]),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_weights_are_refused_when_their_header(
    folder: Path, refuses: Refuses, lie: Callable[[Json, bytes], bytes]
) -> None:
    path = folder / "weights.safetensors"
    header, data = split_safetensors(path)
    header.pop("__metadata__", None)
    path.write_bytes(lie(header, data))
    fix_hashes(folder)
    refuses(folder, "weights.safetensors")


def test_metadata_of_weights_that_is_only_unusual_is_ignored(folder: Path, opens: Callable[[Path], None]) -> None:
    path = folder / "weights.safetensors"
    header, data = split_safetensors(path)
    header["__metadata__"] = {"nested": _nested(510), "pair": "\U0001f964", "backslash": "\\ud800", "number": 1e308}
    path.write_bytes(safetensors_bytes(header, data))
    fix_hashes(folder)
    opens(folder)


TEXT_FILES = ["tokenizer.json", "text-encoder.onnx", "text-encoder.safetensors", "decoder.onnx", "decoder.safetensors"]


@pytest.mark.parametrize("name", TEXT_FILES)
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: flip_bit(path, 10), lambda path: path.write_bytes(b"")])
def test_a_damaged_file_of_a_bundle_of_prompts_is_refused(
    text_folder: Path, refuses: Refuses, name: str, damage: Callable[[Path], object]
) -> None:
    damage(text_folder / name)
    refuses(text_folder, name)


@pytest.mark.parametrize("name", ["weights.safetensors", "text-encoder.safetensors", "decoder.safetensors"])
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_every_weights_file_is_refused_when_its_header(
    text_folder: Path, refuses: Refuses, name: str, lie: Callable[[Json, bytes], bytes]
) -> None:
    path = text_folder / name
    header, data = split_safetensors(path)
    header.pop("__metadata__", None)
    path.write_bytes(lie(header, data))
    fix_hashes(text_folder)
    refuses(text_folder, name)


def test_a_tokenizer_over_64_mib_is_refused(text_folder: Path, refuses: Refuses) -> None:
    os.truncate(text_folder / "tokenizer.json", (64 << 20) + 1)
    fix_hashes(text_folder)
    refuses(text_folder, "tokenizer.json")


@pytest.mark.parametrize("name", ["x" * 100_000, "ä\n\0"])
def test_a_table_of_an_odd_name_is_refused_in_one_line(folder: Path, refuses: Refuses, name: str) -> None:
    retable(folder, name, zeros("F32", [8, 4]))
    refuses(folder, "tables.safetensors")


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_verify_hashes_takes_a_golden_bundle(tmp_path: Path, golden: Path) -> None:
    version = json.loads((golden / "manifest.json").read_text())["version"]
    assert verify_hashes(copy_golden(tmp_path / "bundle", golden)).version == version


@pytest.mark.parametrize("name", TEXT_FILES)
def test_verify_hashes_refuses_a_flipped_bit_in_a_bundle_of_prompts(text_folder: Path, name: str) -> None:
    flip_bit(text_folder / name, 10)
    with pytest.raises(BundleError, match=f"{name}: its SHA-256"):
        verify_hashes(text_folder)


@pytest.mark.parametrize("name", LISTED)
def test_verify_hashes_refuses_a_flipped_bit(folder: Path, name: str) -> None:
    flip_bit(folder / name, 10)
    with pytest.raises(BundleError, match=f"{name}: its SHA-256"):
        verify_hashes(folder)
