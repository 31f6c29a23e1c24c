"""The decoder takes exactly what the types ask for, and raises nothing but StrictJsonError."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soda_runtime.manifest import Manifest, manifest_text
from soda_runtime.strict_json import StrictJsonError, decode, encode, parse_json
from soda_runtime.versions import parse_manifest

from .bundles import (
    GOLDEN,
    GOLDEN_V1,
    GOLDEN_V5,
    GOLDEN_V5_TEXT,
    may_raise,
)


@dataclass(frozen=True)
class Inner:
    name: str
    flag: bool


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle"]
    radius: float


@dataclass(frozen=True)
class Square:
    kind: Literal["square"]
    side: int
    label: str


@dataclass(frozen=True)
class Sample:
    count: int
    ratio: float
    kind: Literal["a", "b"]
    sizes: tuple[int, ...]
    pair: tuple[str, int]
    inner: Inner
    table: dict[str, Inner]
    figure: Circle | Square


def _valid(**changes: object) -> dict[str, object]:
    inner = {"name": "n", "flag": True}
    value = {
        "count": 3, "ratio": 0.5, "kind": "a", "sizes": [1, 2], "pair": ["x", 4], "inner": inner, "table": {"k": inner},
        "figure": {"kind": "circle", "radius": 2.5},
    }  # fmt: skip
    return {**value, **changes}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_a_value_of_every_supported_type_is_decoded() -> None:
    inner = Inner("n", True)
    assert decode(Sample, _valid()) == Sample(3, 0.5, "a", (1, 2), ("x", 4), inner, {"k": inner}, Circle("circle", 2.5))


def test_an_integer_is_a_float_where_a_float_is_asked() -> None:
    ratio = decode(Sample, _valid(ratio=2)).ratio
    assert isinstance(ratio, float)
    assert ratio == 2.0


def test_encode_undoes_decode() -> None:
    assert encode(decode(Sample, _valid())) == _valid()


def test_the_kind_of_a_union_says_which_class_is_meant() -> None:
    square = {"kind": "square", "side": 3, "label": "x"}
    assert decode(Sample, _valid(figure=square)).figure == Square("square", 3, "x")
    assert encode(decode(Sample, _valid(figure=square)))["figure"] == square


@pytest.mark.parametrize("golden", [GOLDEN_V5, GOLDEN_V5_TEXT], ids=lambda golden: golden.name)
def test_a_manifest_is_its_own_canonical_text(golden: Path) -> None:
    text = (golden / "manifest.json").read_text()
    assert manifest_text(parse_manifest(text.encode(), "golden")) == text


def test_a_manifest_of_version_1_is_read_as_the_same_one_of_version_2() -> None:
    old, new = (parse_manifest((golden / "manifest.json").read_bytes(), "golden") for golden in (GOLDEN_V1, GOLDEN))
    assert old.model == replace(new.model, hash=old.model.hash)
    assert (old.sampler, old.tensors, old.steps, old.arena) == (new.sampler, new.tensors, new.steps, new.arena)
    assert (old.programs, old.finish, old.weights) == (new.programs, (), new.weights)
    assert old.prepare == (replace(new.prepare[0], file="prepare.onnx"),)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"count": True}, r"\$\.count"),
        ({"count": 1.0}, r"\$\.count"),
        ({"count": "3"}, r"\$\.count"),
        ({"count": None}, r"\$\.count.*null"),
        ({"ratio": True}, r"\$\.ratio"),
        ({"ratio": "0.5"}, r"\$\.ratio"),
        ({"ratio": float("inf")}, r"\$\.ratio"),
        ({"ratio": float("nan")}, r"\$\.ratio"),
        ({"ratio": 1e39}, r"\$\.ratio"),
        ({"ratio": -(10**400)}, r"\$\.ratio"),
        ({"kind": "c"}, r"\$\.kind"),
        ({"kind": []}, r"\$\.kind"),
        ({"sizes": 1}, r"\$\.sizes.*array"),
        ({"sizes": {"0": 1}}, r"\$\.sizes.*array"),
        ({"sizes": [1, "2"]}, r"\$\.sizes\[1\]"),
        ({"pair": ["x"]}, r"\$\.pair.*2 entries"),
        ({"pair": ["x", 4, 5]}, r"\$\.pair.*2 entries"),
        ({"pair": [4, "x"]}, r"\$\.pair\[0\]"),
        ({"inner": []}, r"\$\.inner.*object"),
        ({"inner": {"name": "n"}}, r"\$\.inner.*missing key 'flag'"),
        ({"inner": {"name": "n", "flag": 1}}, r"\$\.inner\.flag"),
        ({"inner": {"name": "n", "flag": True, "more": 0}}, r"\$\.inner.*unknown key 'more'"),
        ({"table": []}, r"\$\.table.*object"),
        ({"table": {"k": 1}}, r"\$\.table\['k'\].*object"),
        ({"surplus": 0}, r"\$: unknown key 'surplus'"),
        ({"figure": "circle"}, r"\$\.figure.*object"),
        ({"figure": None}, r"\$\.figure.*null"),
        ({"figure": {}}, r"\$\.figure\.kind.*'circle', 'square'"),
        ({"figure": {"radius": 1.0}}, r"\$\.figure\.kind"),
        ({"figure": {"kind": "oval", "radius": 1.0}}, r"\$\.figure\.kind.*'oval'"),
        ({"figure": {"kind": None, "radius": 1.0}}, r"\$\.figure\.kind"),
        ({"figure": {"kind": 0, "radius": 1.0}}, r"\$\.figure\.kind"),
        ({"figure": {"kind": ["circle"], "radius": 1.0}}, r"\$\.figure\.kind"),
        ({"figure": {"kind": {}, "radius": 1.0}}, r"\$\.figure\.kind"),
        ({"figure": {"kind": "circle"}}, r"\$\.figure: missing key 'radius'"),
        ({"figure": {"kind": "square", "radius": 1.0}}, r"\$\.figure: unknown key 'radius'"),
        ({"figure": {"kind": "circle", "radius": 1.0, "side": 3}}, r"\$\.figure: unknown key 'side'"),
        ({"figure": {"kind": "square", "side": 1.0, "label": ""}}, r"\$\.figure\.side"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_place(changes: dict[str, object], place: str) -> None:
    with pytest.raises(StrictJsonError, match=place):
        decode(Sample, _valid(**changes))


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b"[1,]", b'{"a":1,}', b"{'a':1}", b"nul", b"[1] 2", b"01", b"+1", b".5", b"0x10", b'"\x00"',
        b'"\n"', b'"\xff"', b"\xff\xfe", b"\x80", b"NaN", b"[Infinity]", b"-Infinity", b'{"a":1,"a":1}',
        b'"\\ud800"', b'"\\uDFFF\\ud800"', b'{"\\ud83d":1}', b'"\xed\xa0\x80"', b"1e999", b"[-1e400]",
        b"[" * 513 + b"]" * 513, b'{"a":' * 513 + b"1" + b"}" * 513, b'[{"a":{"b":1,"b":2}}]', b"[" * 100_000,
        b'{"a":' * 100_000, b"9" * 10_000,
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_text_that_is_not_standard_json_is_refused(text: bytes) -> None:
    with pytest.raises(StrictJsonError):
        parse_json(text)


def test_text_at_the_limits_is_json() -> None:
    assert len(parse_json(b"[" * 512 + b"]" * 512)) == 1
    assert parse_json(rb'["\ud83e\udd64", "\\ud83e", 1e308]') == ["\U0001f964", "\\ud83e", 1e308]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_json_in_another_encoding_than_utf_8_is_refused(encoding: str) -> None:
    with pytest.raises(StrictJsonError):
        parse_json('{"a": 1}'.encode(encoding))


def test_no_depth_of_nesting_escapes_as_another_error() -> None:
    for depth in range(300, 1200, 7):
        for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            try:
                value: Any = parse_json(text)
            except StrictJsonError:
                continue
            for wrong in ({"kind": value}, {"figure": value}, {"figure": {"kind": value, "radius": 1.0}}):
                with pytest.raises(StrictJsonError):
                    decode(Sample, _valid(**wrong))


def test_finding_a_repeated_key_takes_no_longer_than_a_few_parses() -> None:
    def seconds(text: str) -> float:
        begin = time.perf_counter()
        with suppress(StrictJsonError):
            parse_json(text)
        return time.perf_counter() - begin

    unique = ",".join(f'"{i}":0' for i in range(3000))
    repeated = "{" + unique + ',"2999":0}'
    assert min(seconds(repeated) for _ in range(3)) < 20 * min(seconds("{" + unique + "}") for _ in range(3))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | st.text(alphabet='[]{}:,"\\ntfu0123456789eE+-. ', max_size=60))
def test_arbitrary_text_raises_nothing_but_strict_json_errors(text: bytes | str) -> None:
    with may_raise(StrictJsonError, naming=""):
        parse_json(text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(json_values)
def test_arbitrary_values_raise_nothing_but_strict_json_errors(value: object) -> None:
    for kind in (Sample, Manifest):
        with pytest.raises(StrictJsonError):
            decode(kind, value)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(list(_valid())), json_values)
def test_one_arbitrary_field_decodes_or_raises_strict_json_error(field: str, value: object) -> None:
    with may_raise(StrictJsonError, naming=f"$.{field}"):
        decode(Sample, _valid(**{field: value}))
