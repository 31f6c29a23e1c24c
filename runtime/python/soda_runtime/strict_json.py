"""Decode JSON text into frozen dataclasses: unknown keys, missing keys, wrong types and duplicate keys are refused.

The runtime has no dependency besides numpy, so this stands in for a validation library. Supported field types:
str, int, float, bool, tuple[T, ...], fixed tuples, dict[str, T], Literal, dataclasses of these, and unions of
dataclasses whose `kind` is a Literal that tells them apart.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import types
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .printable import is_printable

T = TypeVar("T")
_MAX_FLOAT = 3.0e38
_MAX_LEVELS = 512
_MAX_SHORT_DIGITS = 308  # ints of no more digits are within float64
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # half of a pair, or an escaped backslash before a u


class StrictJsonError(ValueError):
    """The text is not the JSON that the type asks for; the message names the place."""


def parse_json(text: str | bytes) -> Any:
    """Parse standard JSON in UTF-8: no number beyond float64, duplicate keys, lone surrogates or 513 levels."""
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(
            decoded, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite_float,
            parse_int=_finite_int,
        )  # fmt: skip
        if _levels(value) > _MAX_LEVELS:
            raise StrictJsonError("nested too deeply")
        if _SURROGATE.search(decoded):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # pairs were joined; UTF-8 has no halves
        return value
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError("nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise StrictJsonError(f"not valid JSON ({error})") from None


def decode(cls: type[T], value: Any, where: str = "$") -> T:
    """Turn parsed JSON into cls, or raise StrictJsonError naming the place as a path from `$`."""
    if dataclasses.is_dataclass(cls):
        return _decode_dataclass(cls, value, where)
    return _decode_plain(cls, value, where)  # type: ignore[no-any-return]


def encode(value: Any) -> Any:
    """The inverse of decode: dataclasses to dicts, tuples to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def _decode_dataclass(cls: type[T], value: Any, where: str) -> T:
    if not isinstance(value, dict):
        raise StrictJsonError(f"{where}: expected an object, found {_name(value)}")
    hints = _hints(cls)  # type: ignore[arg-type]
    unknown = sorted(value.keys() - hints.keys())
    if unknown:
        raise StrictJsonError(f"{where}: unknown key {unknown[0]!r:.80}")
    missing = sorted(name for name in hints if name not in value)
    if missing:
        raise StrictJsonError(f"{where}: missing key {missing[0]!r}")
    return cls(**{name: decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


def _decode_plain(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise StrictJsonError(f"{where}: expected one of {', '.join(map(repr, arguments))}, found {brief(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise StrictJsonError(f"{where}: expected an array, found {_name(value)}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(value) != len(arguments):
            raise StrictJsonError(f"{where}: expected {len(arguments)} entries, found {len(value)}")
        return tuple(
            decode(item_kind, item, f"{where}[{i}]")
            for i, (item_kind, item) in enumerate(zip(arguments, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise StrictJsonError(f"{where}: expected an object, found {_name(value)}")
        return {key: decode(arguments[1], item, f"{where}[{key!r:.60}]") for key, item in value.items()}
    if origin is types.UnionType:
        return _decode_union(arguments, value, where)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value) if abs(value) < 2 * _MAX_FLOAT else math.inf  # NaN, and ints that are no float
        if abs(number) > _MAX_FLOAT:
            raise StrictJsonError(f"{where}: expected a number within float32")
        return number
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise StrictJsonError(f"{where}: expected {kind.__name__}, found {_name(value)}")
    if kind is int and not -(2**63) <= value < 2**63:
        raise StrictJsonError(f"{where}: expected an int of 64 bits")
    return value


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """Fields of a dataclass and their types, which are slow to look up."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _decode_union(classes: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise StrictJsonError(f"{where}: expected an object, found {_name(value)}")
    kinds = {get_args(_hints(cls)["kind"])[0]: cls for cls in classes}
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise StrictJsonError(f"{where}.kind: expected one of {', '.join(map(repr, kinds))}, found {brief(kind)}")
    return _decode_dataclass(kinds[kind], value, where)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise StrictJsonError(f"key {key!r:.60} appears twice in one object")
        result[key] = value
    return result


def _levels(value: Any) -> int:
    """Arrays and objects within one another."""
    level, count = [value] if isinstance(value, (list, dict)) else [], 0
    while level:
        inner = itertools.chain.from_iterable(each.values() if isinstance(each, dict) else each for each in level)
        level, count = [each for each in inner if isinstance(each, (list, dict))], count + 1
    return count


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise StrictJsonError(f"{text:.20} is beyond float64")
    return value


def _finite_int(text: str) -> int:
    if len(text) > _MAX_SHORT_DIGITS:
        _finite_float(text)
    return int(text)


def _no_constant(name: str) -> Any:
    raise StrictJsonError(f"{name} is not standard JSON")


def require_printable(value: Any) -> None:
    """Of all strings and keys, at any depth. Raises StrictJsonError."""
    containers: list[Any] = [[value]]
    while containers:
        each = containers.pop()
        inner = [*each.keys(), *each.values()] if isinstance(each, dict) else each
        texts = [item for item in inner if isinstance(item, str)]
        if not is_printable("".join(texts)):
            odd = next(text for text in texts if not is_printable(text))
            raise StrictJsonError(f"{odd!r:.60} has control characters")
        containers += [item for item in inner if isinstance(item, (dict, list))]


def brief(value: Any) -> str:
    """A value for a message: arrays and objects, which may be nested deeper than repr can go, by type alone."""
    return _name(value) if isinstance(value, (list, dict)) or value is None else f"{value!r:.60}"


def _name(value: Any) -> str:
    return "null" if value is None else type(value).__name__
