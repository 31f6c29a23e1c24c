"""The body of POST /v1/images/generations into a request that fits the bundle, or a refusal of the field at fault."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ..playback import Play
from ..sizes import Size
from .api_error import ApiError
from .loras import choose_strengths
from .servable import Servable

MOST_IMAGES = 10  # of one request, as in OpenAI's API
_LONGEST_TEXT = 32_000  # characters of a prompt, as in OpenAI's API
_USUAL: dict[str, tuple[object, ...]] = {
    "quality": ("auto", "standard"), "background": ("auto", "opaque"), "moderation": ("auto", "low"),
    "output_format": ("png",), "output_compression": (100,), "stream": (False,), "partial_images": (0,),
}  # fmt: skip
"""OpenAI's fields that choose nothing here: those values of theirs that ask for what is done anyway."""
_IGNORED = ("user", "style")
_FIELDS = ("model", "prompt", "n", "size", "response_format", *_USUAL, *_IGNORED)
_OURS = ("seed", "labels", "negative_prompt", "prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3",
         "guidance", "policy", "inputs", "lora")  # fmt: skip
_MOST_RANDOM = 2**53  # the numbers that every JSON reader takes exactly


@dataclass(frozen=True)
class Together:
    """What all samples of one generation share; requests that are equal in it can be made together. texts: the fields
    with a text. inputs: names of the numbers that are given. size: height, width. loras: the strength of each that is
    served."""

    size: Size
    loras: tuple[float, ...]
    guidance: float | None
    policy: Play
    texts: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class ImagesRequest:
    """Sample i of it is that of `Session.generate(batch=n, seed=seed)`. labels: one a sample, none for prompts."""

    n: int
    seed: int
    together: Together
    labels: tuple[int, ...]
    texts: Mapping[str, str]
    inputs: Mapping[str, float]


def parse_body(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object. Raises ApiError."""
    try:
        value = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is no JSON") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body is no JSON object")
    return value


def read_images_request(fields: Mapping[str, Any], served: Servable) -> ImagesRequest:
    """Raises ApiError. Ranges of numbers, and what a tokenizer takes, are left to the runtime."""
    for name in fields:
        if name not in (*_FIELDS, *_OURS):
            raise _wrong(name, f"unknown field; this server takes {', '.join((*_FIELDS, *_OURS))}")
    if fields.get("model") not in (None, "", served.name):
        raise ApiError(404, f"model {_shown(fields['model'])} is not here; this server has {served.name}", "model",
                       "model_not_found")  # fmt: skip
    for name, usual in _USUAL.items():
        if fields.get(name) is not None and fields[name] not in usual:
            raise _wrong(name, f"{_shown(fields[name])} cannot be had; this server gives {_shown(usual[0])}")
    if fields.get("response_format") not in (None, "b64_json"):
        raise _wrong("response_format", "this server keeps no pictures that a url could lead to; ask for b64_json")
    n = _whole(fields, "n", 1, 1, MOST_IMAGES)
    seed = _whole(fields, "seed", secrets.randbelow(_MOST_RANDOM), 0, 2**64 - 1)
    texts = {name: text for name in _texts_of(served) if (text := _text(fields, name))}
    for name in ("prompt", *(name for name in _OURS if "prompt" in name)):
        if name not in _texts_of(served) and _text(fields, name):
            takes = ", ".join(_texts_of(served)) or "no prompts"
            takes = f"classes: give labels, 0 .. {served.classes - 1}" if served.classes else takes
            raise _wrong(name, f"has no effect in this bundle, which takes {takes}")
    if served.texts and "prompt" not in texts:
        raise _wrong("prompt", "is missing or empty")
    inputs = _inputs(fields)
    guidance = _number(fields["guidance"], "guidance") if fields.get("guidance") is not None else None
    together = Together(
        _size(fields, served), _loras(fields, served), guidance, _policy(fields, served), tuple(sorted(texts)),
        tuple(sorted(inputs)),
    )  # fmt: skip
    return ImagesRequest(n, seed, together, _labels(fields, served, n), texts, inputs)


def _texts_of(served: Servable) -> tuple[str, ...]:
    return (*served.texts, *(f"negative_{name}" for name in served.texts if served.guided))


def _refuse(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _size(fields: Mapping[str, Any], served: Servable) -> Size:
    given, known = fields.get("size"), served.size_names
    if given in (None, "auto"):
        return served.sizes[0]
    if not isinstance(given, str) or given not in known:
        raise _wrong("size", f"{_shown(given)} was not built; this bundle makes {', '.join(known)} (width x height)")
    return known[given]


def _loras(fields: Mapping[str, Any], served: Servable) -> tuple[float, ...]:
    given = fields.get("lora")
    if given is None:
        return choose_strengths(served.loras, None)
    if not isinstance(given, dict):
        raise _wrong("lora", 'give an object of strengths by name, as in {"style": 0.8}; {} is none')
    odd = next((name for name in given if name not in served.loras), None)
    if odd is not None:
        known = ", ".join(served.loras) or "none; start it with --lora or --lora-folder"
        raise _wrong("lora", f"{_shown(odd)} is not here; this server has {known}")
    return choose_strengths(served.loras, {name: _number(value, f"lora.{name}") for name, value in given.items()})


def _labels(fields: Mapping[str, Any], served: Servable, n: int) -> tuple[int, ...]:
    """One a sample."""
    given = fields.get("labels")
    if not served.classes:
        if given is not None:
            raise _wrong("labels", "this bundle is not conditioned on classes; give a prompt")
        return ()
    listed = given if isinstance(given, list) else [given]
    if given is None or not all(type(label) is int and 0 <= label < served.classes for label in listed):
        raise _wrong("labels", f"{_shown(given)}: give a class 0 .. {served.classes - 1}, or a list of one a picture")
    if len(listed) not in (1, n):
        raise _wrong("labels", f"{len(listed)} labels and n={n} do not agree; give one, or one a picture")
    return tuple(listed * n if len(listed) == 1 else listed)


def _inputs(fields: Mapping[str, Any]) -> dict[str, float]:
    given = fields.get("inputs") or {}
    if not isinstance(given, dict):
        raise _wrong("inputs", "give an object of numbers by name")
    return {name: _number(value, f"inputs.{name}") for name, value in given.items()}


def _policy(fields: Mapping[str, Any], served: Servable) -> Play:
    """What the bundle plays where the request does not say, is said here: requests that mean the same go together."""
    policy = fields.get("policy")
    if policy not in (None, "", *get_args(Play)):
        raise _wrong("policy", f"{_shown(policy)}: give one of {', '.join(get_args(Play))}")
    if policy == "adaptive" and not served.has_policy:
        raise _wrong("policy", "adaptive needs a bundle built with --policy; this one follows its schedule: frozen")
    play: Play = policy or ("adaptive" if served.has_policy else "frozen")
    return play


def _text(fields: Mapping[str, Any], name: str) -> str:
    text = fields.get(name)
    if text is not None and not isinstance(text, str):
        raise _wrong(name, f"{_shown(text)} is no text")
    if text and len(text) > _LONGEST_TEXT:
        raise _wrong(name, f"has {len(text)} characters, {_LONGEST_TEXT} are the most")
    return text or ""


def _whole(fields: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise _wrong(name, f"{_shown(value)} is no whole number within {least} .. {most}")
    return value


def _number(value: object, name: str) -> float:
    if type(value) not in (int, float):
        raise _wrong(name, f"{_shown(value)} is no number")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise _wrong(name, "is too large") from None


def _wrong(name: str, what: str) -> ApiError:
    return ApiError(400, f"{name}: {what}", name)


def _shown(value: object) -> str:
    """A value for a message; Python prints no number of thousands of digits."""
    try:
        return json.dumps(value)[:60]
    except (ValueError, RecursionError):
        return f"({type(value).__name__})"
