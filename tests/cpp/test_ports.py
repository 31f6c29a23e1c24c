"""Bundles of version 5 in C++: ports of every kind by name, slots of unequal sizes, video and sound."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, RequestError
from soda_runtime.philox import latent_noise

from tests.runtime.bundles import GOLDEN, distance, relative

from .fields import fields_of
from .library import CppSession, Library, has_backend
from .ports_toy import CLASSES, LATENTS, PORTS, SLOTS, PortsToy

SAMPLES = 2
KINDS = {"label": 1, "token_ids": 2, "token_mask": 3, "mask": 3, "embedding": 4, "scalar": 5, "hint": 6}


@pytest.fixture(params=["ort", "openvino"])
def backend(request: pytest.FixtureRequest, library: Library) -> str:
    if not has_backend(request.param):
        pytest.skip(f"the backend {request.param} has not been built; `make cpp` says why")
    return str(request.param)


def given(names: str, samples: int = SAMPLES) -> dict[str, Any]:
    """Values of these ports, and of their negatives where they have some."""
    generator, values = np.random.default_rng(1), {}
    for port in PORTS:
        for name in (port["name"], "-" + port["name"]):
            shape = [samples, *port["shape"]]
            whole = generator.integers(0, 2 if "mask" in port["kind"] else CLASSES, shape)
            real = generator.uniform(0, 1, shape).astype(np.float32)
            values[name] = whole if port["dtype"] == "int64" else real
    chosen = names.split()
    negatives = ["-" + n for n in chosen if n not in ("speed", "style", "hint")]
    return {name: values[name] for name in chosen + negatives}


def rows_of(ports: dict[str, Any], samples: int = SAMPLES) -> dict[str, Any]:
    """All rows, conditional ones first, as `play` takes them."""
    ports = {"speed": np.full(1, 0.5, np.float32), **ports}
    rows = {}
    for name, values in ports.items():
        if name[0] == "-":
            continue
        other = {"style": np.full(samples, CLASSES), "speed": values, "hint": values}.get(name)
        other = ports["-" + name] if other is None else other
        rows[name] = np.concatenate([np.repeat(v, samples // len(v), axis=0) for v in (values, other)])
    return rows


TOKENS = "ids_a mask_a ids_b hint hint_mask style"
EMBEDS = "text pooled hint hint_mask style speed"


@pytest.mark.parametrize(
    "names",
    [
        TOKENS, TOKENS + " speed", EMBEDS, EMBEDS + " mask_a", "ids_a mask_a pooled hint hint_mask style",
        "ids_a ids_b text hint hint_mask style",
    ],
)  # fmt: skip
@pytest.mark.parametrize("accelerated", [True, False])
def test_named_ports_play_as_in_numpy(
    library: Library, backend: str, tmp_path: Path, names: str, accelerated: bool
) -> None:
    toy, ports = PortsToy(), given(names)
    session = library.open(toy.write(tmp_path / "toy"), backend=backend, threads=1).session()
    latents = session.generate(ports=ports, seed=5, baseline=int(not accelerated))
    noise = latent_noise(5, 0, SAMPLES, LATENTS)
    expected = toy.play(rows_of(ports), noise, accelerated)
    assert distance(latents, expected) <= 1e-4
    assert distance(session.result(), toy.finish(latents)) <= 1e-4
    assert np.abs(session.result_rgb() - toy.finish(latents) * 255).max() <= 0.51


def test_named_ports_play_as_in_python(library: Library, tmp_path: Path) -> None:
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    for result in ("video", "audio"):
        folder = PortsToy(result).write(tmp_path / result)
        bundle, cpp = Bundle.open(folder, threads=1), library.open(folder, threads=1).session()
        python = bundle.session()
        for names in (TOKENS, TOKENS + " speed", EMBEDS):
            ports = given(names)
            inputs = {name: values for name, values in ports.items() if name[0] != "-"}
            negative = {name[1:]: values for name, values in ports.items() if name[0] == "-"}
            request = {"inputs": inputs, "negative_inputs": negative, "seed": 5}
            assert np.array_equal(cpp.generate(**fields_of(request, bundle)), python.generate(**request))
            assert np.array_equal(cpp.result(), python.result())


def test_the_golden_bundle_of_ports_plays_to_its_stored_results(library: Library, backend: str) -> None:
    with np.load(GOLDEN.with_name("v5-ports.npz")) as file:
        stored = dict(file)
    ports = {name.split(".")[1]: values for name, values in stored.items() if name.startswith("inputs.")}
    ports |= {"-" + name.split(".")[1]: stored[name] for name in stored if name.startswith("negative_inputs.")}
    session = library.open(GOLDEN.with_name("v5-ports"), backend=backend, threads=1).session()
    assert relative(session.generate(ports=ports, seed=int(stored["seed"])), stored["latents"]) <= 1e-3
    assert distance(session.result(), stored["video"]) <= 1e-3


def test_one_value_serves_all_samples(library: Library, tmp_path: Path) -> None:
    session = library.open(PortsToy().write(tmp_path / "toy"), backend="null").session()
    single = {name: values[:1] for name, values in given(EMBEDS).items()}
    assert session.generate(ports=single, samples=3, seed=1).shape == (3, *LATENTS)
    mixed = given(EMBEDS) | {name: values for name, values in single.items() if name in ("hint", "-text", "speed")}
    assert session.generate(ports=mixed, seed=1).shape == (SAMPLES, *LATENTS)
    if has_backend("ort"):
        session = library.open(tmp_path / "toy", threads=1).session()
        wide = {name: np.repeat(values[:1], 3, axis=0) for name, values in single.items()}
        assert np.array_equal(session.generate(ports=single, samples=3), session.generate(ports=wide))


def test_sound_is_channels_and_length(library: Library, backend: str, tmp_path: Path) -> None:
    toy = PortsToy("audio")
    bundle = library.open(toy.write(tmp_path / "toy"), backend=backend, threads=1)
    info, session = bundle.info(), bundle.session()
    latents = session.generate(ports=given(EMBEDS), seed=5)
    assert (info.result, info.result_rank, info.result_rate) == (3, 2, 16000)
    assert distance(session.result(), toy.finish(latents)) <= 1e-5
    assert list(info.image_shape) == [0, 0, 0]
    with pytest.raises(RequestError, match="makes audio"):
        session.images()
    with pytest.raises(RequestError, match="makes audio"):
        session.result_rgb()
    assert bundle.ports(1)[1] == ("audio", 0, [-1, 2, 12])


def test_a_bundle_lists_its_ports_and_slots(library: Library, tmp_path: Path) -> None:
    bundle = library.open(PortsToy().write(tmp_path / "toy"), backend="null")
    info = bundle.info()
    assert (info.condition, info.latent_rank, info.num_slots) == (2, 4, len(SLOTS))
    assert list(info.latent_axes) == list(LATENTS)
    assert math.prod(info.latent_shape) == math.prod(LATENTS)  # what an older application makes room for
    assert (info.result, list(info.result_axes), info.result_rate) == (2, [3, 2, 2, 3], 7.5)
    found = bundle.port_structs(0)
    listed = [(p.port.decode(), p.kind, p.dtype, list(p.shape[1 : p.rank])) for p in found if not p.negative and p.kind]
    assert listed == [(p["name"], KINDS[p["kind"]], 3 if p["dtype"] == "int64" else 0, p["shape"]) for p in PORTS]
    assert {p.port.decode() for p in found if p.negative} == {
        p["name"] for p in PORTS if p["kind"] not in ("label", "hint", "scalar")
    }
    by_name = {p.port.decode(): p for p in found if not p.negative}
    assert [by_name[name].tokenizer for name in ("ids_a", "mask_a", "ids_b", "text")] == [0, 0, 1, -1]
    assert [by_name[name].encoded for name in ("text", "pooled", "hint")] == [1, 1, 0]
    speed, style = by_name["speed"], by_name["style"]
    assert (speed.least, speed.most, speed.default_value, style.most) == (0, 2, 0.5, CLASSES - 1)
    slots = [(s.name.decode(), list(s.shape[: s.rank]), s.bytes) for s in bundle.slots()]
    assert slots == [("mid.attn", list(LATENTS), 256), ("mid.attn#1", [1], 256)]
    assert [p[0] for p in bundle.ports(1)] == ["latents", "video"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a missing port": ({"hint": None}, "does not give 'hint'"),
    "a missing negative": ({"-text": None}, "needs its negative"),
    "a negative alone": ({"hint_mask": None}, "comes without"),
    "one output of two encoders and no tokens": ({"text": None, "-text": None}, "does not give 'ids_a'"),
    "tokens beside embeddings": ({"ids_b": np.zeros((2, 3), np.int64)}, "has no effect beside embeddings"),
    "token ids below zero": ({"ids_a": np.full((2, 4), -1)}, "below 0"),
    "no port": ({"other": np.zeros(2, np.float32)}, "is no port"),
    "a negative label": ({"-style": np.zeros(2, np.int64)}, "no effect"),
    "a negative hint": ({"-hint": np.zeros((2, 1, 2, 2), np.float32)}, "no effect"),
    "a negative scalar": ({"-speed": np.zeros(2, np.float32)}, "no effect"),
    "a label too large": ({"style": np.full(2, CLASSES)}, "outside 0 .. 4"),
    "a scalar too large": ({"speed": np.full(2, 2.5, np.float32)}, "outside 0 .. 2"),
    "a scalar that is no number": ({"speed": np.full(2, np.nan, np.float32)}, "outside 0 .. 2"),
    "a hint that is not finite": ({"hint": np.full((2, 1, 2, 2), np.inf, np.float32)}, "not finite"),
    "a mask of twos": ({"hint_mask": np.full((2, 2), 2)}, "other than 0 and 1"),
    "too few bytes": ({"text": np.zeros((2, 4, 2), np.float32)}, "has 64 bytes"),
    "another number of rows": ({"text": np.zeros((3, 4, 3), np.float32)}, "rows for 3 samples"),
    "more negative rows": ({"-text": np.zeros((3, 4, 3), np.float32)}, "3 rows for 2 samples"),
    "no rows": ({"hint": np.zeros((0, 1, 2, 2), np.float32)}, "0 rows for 2 samples"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_ports_that_do_not_fit_are_refused(
    library: Library, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    session: CppSession = library.open(PortsToy().write(tmp_path / "toy"), backend="null").session()
    ports = given(EMBEDS)
    session.start(ports=ports)
    changed = {name: values for name, values in (ports | change).items() if values is not None}
    with pytest.raises(RequestError, match=reason):
        session.start(ports=changed)
    inputs = {name: values for name, values in changed.items() if name[0] != "-"}
    negative = {name[1:]: values for name, values in changed.items() if name[0] == "-"}
    with pytest.raises(RequestError):
        Bundle.open(tmp_path / "toy", backend="null").session().start(inputs=inputs, negative_inputs=negative)
    session.step(0)  # a refused request changes nothing


def test_fields_of_a_request_are_the_only_port_of_their_kind(library: Library, tmp_path: Path) -> None:
    session = library.open(PortsToy().write(tmp_path / "toy"), backend="null").session()
    ports = given(EMBEDS)
    style = ports.pop("style")
    session.start(ports=ports, labels=style)
    with pytest.raises(RequestError, match="port 'text' is given twice"):
        session.start(ports=ports, labels=style, embeds=np.zeros((2, 4, 3)), num_prompts=2)
    with pytest.raises(RequestError, match="given twice"):
        session.start(ports=ports | {"style": style}, labels=style)
