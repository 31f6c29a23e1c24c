"""Requests by port: encoders that run or not, scalars, second outputs, slots of unequal sizes, video and sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, Embeds, Request, RequestError, Session
from soda_runtime.checks import verify_hashes
from soda_runtime.manifest import EmbeddingPort, MaskPort
from soda_runtime.philox import INITIAL_STREAM, latent_noise
from soda_runtime.port_inputs import name_inputs
from soda_runtime.request import example_request

from tests.cpp.ports_toy import CLASSES, LATENTS, PORTS, PortsToy

from .bundles import GOLDEN_V5_PORTS, Json, copy_golden, distance, edit_manifest, put

TOKENS = "ids_a mask_a ids_b hint hint_mask style"
EMBEDS = "text pooled hint hint_mask style"
SAMPLES = 2


def _given(names: str, samples: int = SAMPLES) -> dict[str, Any]:
    """inputs and negative_inputs of these ports."""
    random, request = np.random.default_rng(2), {"inputs": {}, "negative_inputs": {}}
    for port in (port for port in PORTS if port["name"] in names.split()):
        for half in request if port["kind"] not in ("label", "hint", "scalar") else ("inputs",):
            shape = (samples, *port["shape"])
            whole = random.integers(0, 2 if "mask" in port["kind"] else CLASSES, shape)
            real = random.uniform(0, 1, shape).astype(np.float32)
            request[half][port["name"]] = whole if port["dtype"] == "int64" else real
    return request


def _rows(request: dict[str, Any], samples: int = SAMPLES) -> dict[str, Any]:
    inputs = {"speed": np.full(samples, 0.5, np.float32), **request["inputs"]}
    other = {**inputs, "style": np.full(samples, CLASSES), **request["negative_inputs"]}
    return {name: np.concatenate([values, other[name]]) for name, values in inputs.items()}


@pytest.fixture
def toy_folder(tmp_path: Path) -> Path:
    return PortsToy().write(tmp_path / "toy")


@pytest.fixture(params=["ort", "openvino"])
def session(request: pytest.FixtureRequest, toy_folder: Path) -> Session:
    pytest.importorskip({"ort": "onnxruntime"}.get(request.param, request.param))
    return Session.open(toy_folder, backend=request.param, threads=1)


@pytest.mark.parametrize(
    "names",
    [TOKENS, TOKENS + " speed", EMBEDS, EMBEDS + " mask_a", "ids_a mask_a pooled hint hint_mask style",
     "ids_a ids_b text hint hint_mask style"],
)  # fmt: skip
@pytest.mark.parametrize("accelerated", [True, False])
def test_named_ports_play_as_in_numpy(session: Session, names: str, accelerated: bool) -> None:
    request = _given(names)
    latents = session.generate(**request, seed=5, accelerated=accelerated)
    noise = latent_noise(5, INITIAL_STREAM, SAMPLES, LATENTS)
    assert distance(latents, PortsToy().play(_rows(request), noise, accelerated)) <= 1e-4
    assert distance(session.result(), PortsToy().finish(latents)) <= 1e-5


def test_the_golden_bundle_of_ports_reproduces_its_latents_and_video() -> None:
    with np.load(GOLDEN_V5_PORTS.with_name("v5-ports.npz")) as stored:
        request: dict[str, Any] = {"inputs": {}, "negative_inputs": {}}
        for name in stored:
            half, _, port = name.partition(".")
            if port:
                request[half][port] = stored[name]
        session = Session.open(GOLDEN_V5_PORTS, threads=1)
        assert distance(session.generate(**request, seed=int(stored["seed"])), stored["latents"]) <= 1e-3
        assert (session.result_kind, distance(session.result(), stored["video"]) <= 1e-3) == ("video", True)


def test_sound_is_given_as_channels_and_samples(tmp_path: Path) -> None:
    toy = PortsToy("audio")
    session = Session.open(toy.write(tmp_path / "toy"), threads=1)
    latents = session.generate(**_given(TOKENS))
    assert session.result().shape == (SAMPLES, 2, 12)
    assert distance(session.result(), toy.finish(latents)) <= 1e-5
    with pytest.raises(RequestError, match="makes audio, not images"):
        session.images()


def test_one_value_serves_all_samples_and_batch_repeats_it(session: Session) -> None:
    one = _given(TOKENS, samples=1)
    expected = session.generate(**one, batch=2, seed=3)
    twice = _with(one, style=np.repeat(one["inputs"]["style"], 2))
    assert np.array_equal(session.generate(**twice, seed=3), expected)
    assert np.array_equal(session.generate(**_with(one, speed=0.5), batch=2, seed=3), expected)  # the default
    assert np.array_equal(session.generate(**_with(one, speed=[0.5, 1.0]), seed=3)[:1], expected[:1])
    assert not np.array_equal(session.latents(), expected)


def test_labels_are_short_for_the_port_of_labels(session: Session) -> None:
    request = _given(TOKENS)
    expected = session.generate(**request, seed=3)
    labels = request["inputs"].pop("style")
    assert np.array_equal(session.generate(labels, **request, seed=3), expected)
    session.begin(Request(labels=labels, **request, seed=3))
    session.run_steps()
    assert np.array_equal(session.latents(), expected)


def test_what_a_request_leaves_out_is_not_an_earlier_ones(session: Session) -> None:
    fresh = session.generate(**_given(TOKENS), seed=3)
    session.generate(**_given(EMBEDS + " speed"), seed=4)
    assert np.array_equal(session.generate(**_given(TOKENS), seed=3), fresh)


def _without(request: dict[str, Any], *names: str) -> dict[str, Any]:
    return {half: {k: v for k, v in values.items() if k not in names} for half, values in request.items()}


def _with(request: dict[str, Any], half: str = "inputs", **values: Any) -> dict[str, Any]:
    return {**request, half: {**request[half], **values}}


_T, _E, _ZEROS = _given(TOKENS), _given(EMBEDS), np.zeros
WRONG: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no labels": _without(_T, "style"),
    "no hint": _without(_T, "hint"),
    "no ids of one tokenizer": _without(_T, "ids_b"),
    "no mask of a tokenizer that is used": _without(_T, "mask_a"),
    "ids beside all embeddings": _with(_E, ids_b=_T["inputs"]["ids_b"]),
    "a name that is no port": _with(_T, more=[1.0]),
    "the name of a tensor": _with(_T, gain=[1.0]),
    "a negative name that is no port": _with(_T, "negative_inputs", more=[1.0]),
    "a negative label": _with(_T, "negative_inputs", style=[1, 1]),
    "a negative scalar": _with(_T, "negative_inputs", speed=[1.0]),
    "a negative of what is not given": _with(_T, "negative_inputs", text=_ZEROS((2, 4, 3))),
    "no negative mask": {**_T, "negative_inputs": _without(_T, "hint_mask")["negative_inputs"]},
    "a negative hint": _with(_T, "negative_inputs", hint=_ZEROS((2, 1, 2, 2))),
    "labels twice": {**_T, "labels": [3, 4]},
    "a label beyond the classes": _with(_T, style=CLASSES),
    "a scalar below the least": _with(_T, speed=-0.1),
    "a scalar above the most": _with(_T, speed=[0.5, 2.1]),
    "a scalar that is not finite": _with(_T, speed=float("nan")),
    "a scalar in two rows": _with(_T, speed=[[0.5, 0.5]]),
    "three scalars for two samples": _with(_T, speed=[0.5] * 3),
    "no scalars": _with(_T, speed=[]),
    "token ids below zero": _with(_T, ids_b=_ZEROS((2, 3), np.int64) - 1),
    "fractional token ids": _with(_T, ids_b=_ZEROS((2, 3), np.float32)),
    "fewer token ids": _with(_T, ids_b=_ZEROS((2, 2), np.int64)),
    "a mask with a two": _with(_T, hint_mask=_ZEROS((2, 2), np.int64) + 2),
    "a hint of another shape": _with(_T, hint=_ZEROS((2, 2, 2))),
    "a hint of three samples": _with(_T, hint=_ZEROS((3, 1, 2, 2))),
    "three negative masks": _with(_T, "negative_inputs", hint_mask=_ZEROS((3, 2), np.int64)),
    "a hint of strings": _with(_T, hint=np.full((2, 1, 2, 2), "a")),
    "another batch": {**_T, "batch": 3},
    "a prompt and token ids": {**_T, "prompt": "red"},
    "a prompt that nothing takes": {**_E, "prompt": "red"},
    "a negative prompt without a prompt": {**_T, "negative_prompt": "red"},
    "embeddings that may be either of two ports": {**_T, "embeds": Embeds(_ZEROS((2, 4, 3), np.float32))},
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_refused_before_anything_changes(toy_folder: Path, wrong: dict[str, Any]) -> None:
    session = Bundle.open(toy_folder, backend="null").session()
    session.start(**_T)
    before = [memory.read() for memory in session.playback.memories()]
    with pytest.raises(RequestError) as caught:
        session.start(**wrong)
    assert str(caught.value).isprintable()
    assert all(np.array_equal(m.read(), old) for m, old in zip(session.playback.memories(), before, strict=True))
    session.step(0)


def test_some_of_an_encoders_outputs_but_not_all_are_refused(toy_folder: Path) -> None:
    """Of one encoder that makes both embeddings."""

    def change(manifest: Json) -> None:
        encoder, gain, _ = manifest["prepare"]
        encoder.update(inputs=["ids_a", "mask_a", "ids_b"], outputs=["pooled", "text"])
        manifest["prepare"] = [encoder, gain]

    edit_manifest(toy_folder, change)
    session = Bundle.open(toy_folder, backend="null").session()
    with pytest.raises(RequestError, match=r"text is missing, which encoder-b\.onnx makes"):
        session.start(**_without(_E, "text"))
    session.start(**_E)


def test_embeds_are_short_for_the_ports_of_their_kinds(toy_folder: Path) -> None:
    manifest = Bundle.open(toy_folder, backend="null").manifest
    ports = (
        EmbeddingPort("text", "float32", (4, 3), "embedding"), EmbeddingPort("pooled", "float32", (2,), "embedding"),
        MaskPort("seen", "int64", (4,), "mask"),
    )  # fmt: skip
    arrays: list[Any] = [np.zeros(n) for n in range(1, 7)]
    named = name_inputs(Request(embeds=Embeds(*arrays)), replace(manifest, ports=ports))
    assert {name: len(values) for name, values in named.inputs.items()} == {"text": 1, "seen": 2, "pooled": 5}
    assert {name: len(values) for name, values in named.negative_inputs.items()} == {"text": 3, "seen": 4, "pooled": 6}


def test_the_example_request_fits_a_bundle_of_ports(toy_folder: Path) -> None:
    bundle = Bundle.open(toy_folder, backend="null")
    for samples in (1, 3):
        session = bundle.session()
        assert session.generate(**example_request(bundle, samples)).shape == (samples, *LATENTS)
        assert session.result().shape == (samples, 3, 2, 2, 3)


def test_a_bundle_of_ports_verifies_and_one_whose_weights_have_other_names_does_not(tmp_path: Path) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_PORTS)
    assert verify_hashes(folder).version == 5
    edit_manifest(folder, put("programs", 0, "weights", value="encoder.safetensors"))
    with pytest.raises(Exception, match=r"compute\.onnx: initializer 'head\.weight' is not the tensor of that name"):
        verify_hashes(folder)
