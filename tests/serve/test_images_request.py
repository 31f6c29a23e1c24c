"""What a request may say, and how it is told what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from soda_runtime.manifest import ScalarPort
from soda_runtime.serve.api_error import ApiError
from soda_runtime.serve.images_request import MOST_IMAGES, parse_body, read_images_request
from soda_runtime.serve.servable import Servable

LABELS = Servable("digits", ((8, 8),), 1, 10, (), (), True, False)
TEXT = Servable(
    "pixart", ((16, 32), (32, 16)), 3, 0, ("prompt", "prompt_2"),
    (ScalarPort("speed", "float32", (), "scalar", 0.5, 0.0, 1.0),), True, True,
    {"style": 0.8, "sketch": 0.0},
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
FIELDS = ("model", "prompt", "n", "size", "response_format", "seed", "labels", "negative_prompt", "guidance", "policy",
          "inputs", "lora", "quality", "user", "prompt_2", "other")  # fmt: skip


def check_refusal(error: ApiError, fields: dict[str, Any]) -> None:
    assert error.status in (400, 404)
    assert error.param.partition(".")[0] in fields or error.param in ("prompt", "labels")
    json.dumps(error.body)


@pytest.mark.parametrize("served", [LABELS, TEXT], ids=["labels", "text"])
@settings(suppress_health_check=[HealthCheck.too_slow])  # of a machine that has much other work
@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_any_object_is_a_request_or_a_refusal_of_one_field(served: Servable, fields: dict[str, Any]) -> None:
    try:
        asked = read_images_request(parse_body(json.dumps(fields).encode()), served)
    except ApiError as error:
        check_refusal(error, fields)
    else:
        assert 1 <= asked.n <= MOST_IMAGES
        assert 0 <= asked.seed < 2**64
        assert len(asked.labels) == (asked.n if served.classes else 0)


@given(body=st.binary(max_size=20))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    try:
        fields = parse_body(body)
    except ApiError as error:
        fields = error.body
    assert isinstance(fields, dict)


@pytest.mark.parametrize(
    ("fields", "param", "what"),
    [
        ({"guidence": 2}, "guidence", "unknown field"),
        ({"model": "dall-e-3"}, "model", "is not here; this server has digits"),
        ({"size": "1024x1024"}, "size", "this bundle makes 8x8"),
        ({"size": [8, 8]}, "size", "this bundle makes 8x8"),
        ({"lora": {"style": 1}}, "lora", "start it with --lora"),
        ({"response_format": "url"}, "response_format", "ask for b64_json"),
        ({"quality": "hd"}, "quality", '"hd" cannot be had'),
        ({"n": 11}, "n", "within 1 .. 10"),
        ({"n": True}, "n", "no whole number"),
        ({"seed": -1}, "seed", "within 0 .. 18446744073709551615"),
        ({"labels": 10}, "labels", "give a class 0 .. 9"),
        ({"labels": [1, 2], "n": 3}, "labels", "2 labels and n=3 do not agree"),
        ({"labels": None}, "labels", "give a class 0 .. 9"),
        ({"prompt": "a seven"}, "prompt", "takes classes: give labels"),
        ({"policy": "adaptive"}, "policy", "needs a bundle built with --policy"),
        ({"policy": "fast"}, "policy", "give one of frozen, full, adaptive"),
        ({"guidance": "much"}, "guidance", "is no number"),
        ({"guidance": 10**400}, "guidance", "too large"),
        ({"inputs": [1]}, "inputs", "object of numbers"),
        ({"inputs": {"speed": "x"}}, "inputs.speed", "is no number"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_what_to_give(fields: dict[str, Any], param: str, what: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_images_request({"labels": 1, **fields}, LABELS)
    assert caught.value.param == param
    assert what in caught.value.message
    assert caught.value.body["error"]["type"] == "invalid_request_error"


def test_openai_s_fields_that_choose_nothing_are_taken() -> None:
    usual = {"model": "digits", "size": "auto", "quality": "standard", "style": "vivid", "user": "me", "prompt": "",
             "background": "auto", "output_format": "png", "stream": False, "response_format": "b64_json"}  # fmt: skip
    asked = read_images_request({**usual, "labels": 7, "seed": 1}, LABELS)
    assert (asked.n, asked.seed, asked.labels) == (1, 1, (7,))


def test_a_request_chooses_a_size_and_loras_by_name() -> None:
    def together(**fields: Any) -> Any:
        return read_images_request({"prompt": "a", **fields}, TEXT).together

    assert (together().size, together(size="32x16").size, together(size="16x32").size) == ((16, 32), (16, 32), (32, 16))
    assert together().loras == (0.8, 0.0)
    assert together(lora={}).loras == (0.0, 0.0)
    assert together(lora={"sketch": 0.5}).loras == (0.0, 0.5)
    for wrong, message in (
        ({"size": "64x64"}, "this bundle makes 32x16, 16x32 (width x height)"),
        ({"lora": {"other": 1}}, '"other" is not here; this server has style, sketch'),
        ({"lora": {"style": "much"}}, "is no number"), ({"lora": ["style"]}, "object of strengths by name"),
    ):
        with pytest.raises(ApiError) as caught:
            together(**wrong)
        assert message in caught.value.message
        assert caught.value.param.partition(".")[0] in wrong


def test_requests_that_mean_the_same_can_be_made_together() -> None:
    given = [{"prompt": "a", "seed": 1}, {"prompt": "b", "policy": "adaptive", "n": 2}, {"prompt": "c", "prompt_2": ""}]
    assert len({read_images_request(each, TEXT).together for each in given}) == 1
    others = [{"guidance": 2}, {"policy": "frozen"}, {"negative_prompt": "x"}, {"inputs": {"speed": 0.1}}]
    assert len({read_images_request({"prompt": "a", **each}, TEXT).together for each in others}) == 4
