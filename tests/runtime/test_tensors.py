"""The safetensors reader takes what the safetensors library writes, and refuses every header that lies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from soda_runtime import BundleError
from soda_runtime.tensors import TensorEntry, read_header, read_tensors

from .bundles import GOLDEN, may_raise, safetensors_bytes

TWO = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]},
}
DATA = np.arange(4, dtype="<f4").tobytes() + np.array([7], "<i8").tobytes()

shared_folder = settings(
    max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
arrays = st.sampled_from(["<f8", "<f4", "<f2", "<i8", "<i4"]).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, max_side=4))
)


def _write(folder: Path, content: bytes) -> Path:
    path = folder / "file.safetensors"
    path.write_bytes(content)
    return path


def test_a_header_gives_ranges_in_the_file(tmp_path: Path) -> None:
    content = safetensors_bytes({"__metadata__": {"x": "y"}, **TWO}, DATA)
    start = len(content) - len(DATA)
    assert read_header(_write(tmp_path, content)) == {
        "a": TensorEntry("F32", (2, 2), start, start + 16),
        "b": TensorEntry("I64", (1,), start + 16, start + 24),
    }


def test_tensors_are_read_with_their_values(tmp_path: Path) -> None:
    tensors = read_tensors(_write(tmp_path, safetensors_bytes(TWO, DATA)))
    assert tensors.keys() == {"a", "b"}
    assert tensors["a"].tolist() == [[0, 1], [2, 3]]
    assert tensors["b"].tolist() == [7]


def test_an_empty_file_of_tensors_is_valid(tmp_path: Path) -> None:
    assert read_tensors(_write(tmp_path, safetensors_bytes({}))) == {}


def test_the_order_of_the_header_does_not_matter(tmp_path: Path) -> None:
    reordered = {"b": TWO["b"], "a": TWO["a"]}
    assert read_tensors(_write(tmp_path, safetensors_bytes(reordered, DATA)))["a"].tolist() == [[0, 1], [2, 3]]


@settings(shared_folder, max_examples=25)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), arrays, max_size=4))
def test_what_the_safetensors_library_writes_is_read_back(tmp_path: Path, tensors: dict[str, Any]) -> None:
    library = pytest.importorskip("safetensors.numpy")
    tensors.pop("__metadata__", None)
    read = read_tensors(_write(tmp_path, library.save(tensors)))
    assert read.keys() == tensors.keys()
    for name, array in tensors.items():
        assert read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()


def test_the_golden_weights_are_read_as_the_safetensors_library_reads_them() -> None:
    library = pytest.importorskip("safetensors.numpy")
    path = GOLDEN / "weights.safetensors"
    ours, theirs = read_tensors(path), library.load_file(path)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_an_empty_tensor_may_follow_another_at_the_same_offset(tmp_path: Path) -> None:
    header = {**TWO, "empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [16, 16]}}
    assert read_tensors(_write(tmp_path, safetensors_bytes(header, DATA)))["empty"].shape == (0, 3)


def _changed(name: str, key: str, value: object) -> bytes:
    header: dict[str, Any] = json.loads(json.dumps(TWO))
    header[name][key] = value
    return safetensors_bytes(header, DATA)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "no bytes": lambda: b"",
    "less than a length": lambda: b"\x02\0\0\0\0\0\0",
    "a length and nothing else": lambda: (2).to_bytes(8, "little"),
    "a header longer than the file": lambda: (1000).to_bytes(8, "little") + b"{}",
    "a header of 2**64 - 1 bytes": lambda: b"\xff" * 8 + b"{}",
    "a header over 16 MiB": lambda: safetensors_bytes(b"{}" + b" " * (16 << 20)),
    "a header that is an array": lambda: safetensors_bytes([]),
    "a header that is not JSON": lambda: safetensors_bytes(b"{]"),
    "a header that is not UTF-8": lambda: safetensors_bytes(b'{"\xff":1}'),
    "a deeply nested header": lambda: safetensors_bytes(b"[" * 100_000),
    "a tensor named twice": lambda: safetensors_bytes(b'{"a":' + json.dumps(TWO["a"]).encode() + b',"a":1}', DATA),
    "an entry that is an array": lambda: safetensors_bytes({"a": [1]}),
    "an entry without a shape": lambda: safetensors_bytes({"a": {"dtype": "F32", "data_offsets": [0, 0]}}),
    "an entry with a surplus key": lambda: _changed("a", "x", 1),
    "an unknown dtype": lambda: _changed("a", "dtype", "F128"),
    "a dtype that is a list": lambda: _changed("a", "dtype", ["F32"]),
    "a shape that is a number": lambda: _changed("a", "shape", 4),
    "a negative side": lambda: _changed("a", "shape", [-2, -2]),
    "a fractional side": lambda: _changed("a", "shape", [2.0, 2]),
    "a boolean side": lambda: _changed("a", "shape", [True, 4]),
    "a side of 10**4000": lambda: _changed("a", "shape", [10**4000]),
    "sides whose product is 2**384": lambda: _changed("a", "shape", [2**47] * 8),
    "nine axes": lambda: _changed("a", "shape", [1] * 7 + [2, 2]),
    "a shape of other size than its range": lambda: _changed("a", "shape", [2, 3]),
    "a range of one number": lambda: _changed("a", "data_offsets", [16]),
    "a range backwards": lambda: _changed("a", "data_offsets", [16, 0]),
    "a negative range": lambda: _changed("a", "data_offsets", [-16, 0]),
    "a range beyond the file": lambda: _changed("b", "data_offsets", [1 << 40, (1 << 40) + 8]),
    "overlapping tensors": lambda: _changed("b", "data_offsets", [8, 16]),
    "the same range twice": lambda: safetensors_bytes({"a": TWO["a"], "c": TWO["a"]}, DATA[:16]),
    "a hole before the first tensor": lambda: safetensors_bytes({"b": TWO["b"]}, DATA),
    "a hole between tensors": lambda: _changed("b", "data_offsets", [24, 32]) + bytes(8),
    "bytes behind the last tensor": lambda: safetensors_bytes(TWO, DATA + b"\0"),
    "fewer bytes than described": lambda: safetensors_bytes(TWO, DATA[:-1]),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_header_that_lies_is_refused(tmp_path: Path, content: Callable[[], bytes]) -> None:
    path = _write(tmp_path, content())
    with pytest.raises(BundleError) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "copy or build the bundle again" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("dtype", ["BF16", "U8", "BOOL", "I8", "I16"])
def test_a_dtype_that_tables_do_not_use_is_refused_in_tables(tmp_path: Path, dtype: str) -> None:
    size = 2 if dtype in {"BF16", "I16"} else 1
    header = {"t": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}
    path = _write(tmp_path, safetensors_bytes(header, bytes(size)))
    assert read_header(path)["t"].dtype == dtype
    with pytest.raises(BundleError, match=f"dtype {dtype}"):
        read_tensors(path)


@shared_folder
@given(st.binary(max_size=120), st.booleans())
def test_arbitrary_bytes_raise_nothing_but_bundle_errors(tmp_path: Path, content: bytes, framed: bool) -> None:
    path = _write(tmp_path, safetensors_bytes(content) if framed else content)
    with may_raise(BundleError, naming=str(path)):
        read_tensors(path)


@shared_folder
@given(st.data())
def test_a_randomly_damaged_header_raises_nothing_but_bundle_errors(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(safetensors_bytes(TWO, DATA))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not content:
            break
    path = _write(tmp_path, bytes(content))
    with may_raise(BundleError, naming=str(path)):
        read_tensors(path)


@shared_folder
@given(
    st.sampled_from(["a", "b"]),
    st.sampled_from(["dtype", "shape", "data_offsets"]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["F32", "F64", "I32", "BF16", "BOOL", ""])
    | st.lists(st.integers(-1, 40) | st.booleans() | st.integers(2**47, 2**65), max_size=9),
)
def test_a_randomly_wrong_entry_raises_nothing_but_bundle_errors(
    tmp_path: Path, name: str, key: str, value: object
) -> None:
    path = _write(tmp_path, _changed(name, key, value))
    with may_raise(BundleError, naming=str(path)):
        read_tensors(path)
