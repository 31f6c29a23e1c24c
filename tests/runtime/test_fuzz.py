"""A manifest mutated at random opens or is a BundleError; if it opens, its dispatch is sound on the null backend."""

from __future__ import annotations

import copy
import itertools
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from soda_runtime import Bundle, BundleError, SodaError
from soda_runtime.manifest import Manifest, VideoFinish
from soda_runtime.request import example_request

from .bundles import GOLDEN, GOLDEN_TEXT, GOLDEN_V1, GOLDEN_V3, GOLDEN_V4, current_manifest, may_raise, read_manifest

MANIFEST = current_manifest(GOLDEN)
MANIFESTS = {
    "labels": MANIFEST, "prompts": current_manifest(GOLDEN_TEXT), "v1": read_manifest(GOLDEN_V1),
    "v3": read_manifest(GOLDEN_V3), "v4": read_manifest(GOLDEN_V4),
}  # fmt: skip
TEXT = json.dumps(MANIFEST, indent=2).encode()
PLAYED_BYTES = 16 << 20
STEPS = MANIFEST["sampler"]["steps"]
SLOTS, SLOT_BYTES = MANIFEST["programs"][0]["writes"], 2048

bounded = settings(
    max_examples=50, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *_places(item, (*path, key))]]


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


ALIKE = {"timesteps", "files"}  # many places that mean little
PLACES = {
    name: [place for place in _places(manifest) if not ALIKE & set(place) or {0, "plan.json"} & set(place)]
    for name, manifest in MANIFESTS.items()
}
numbers = st.sampled_from([-1, 0, 1, 2, 3, 7, 8, 16, 1024, 2047, 2048, 4096, 12288, 1 << 20, 1 << 31, 1 << 63])
texts = st.sampled_from([
    "", "x", "null", "0.attn", "2.ff", "state", "../x", "labels", "embeds", "input_ids", "attention_mask",
    "conditioning", "key_0", "time_embedding", "text", "label",
    "scalar", "mask", "embedding", "0.attn@1", "0.attn#1", "bfloat16", "fp16", "plan.json",
    "baseline_coefficients",
])  # fmt: skip
leaves = st.none() | st.booleans() | numbers | st.floats(-1e6, 1e6) | texts
values: st.SearchStrategy[Any] = leaves | st.lists(numbers, max_size=8) | st.just({})


@st.composite
def mutated_manifests(draw: st.DrawFn, golden: str) -> bytes:
    """A golden manifest with one to three values replaced, copied from elsewhere in it, repeated or dropped."""
    manifest, places = copy.deepcopy(MANIFESTS[golden]), PLACES[golden]
    for _ in range(draw(st.integers(1, 3))):
        *parent, key = draw(st.sampled_from(places))
        try:
            container = _at(manifest, tuple(parent))
            container[key]
        except (KeyError, IndexError, TypeError):
            continue
        if isinstance(container, str):
            continue
        match draw(st.sampled_from(["replace", "nudge", "copy", "copy", "repeat", "drop"])):
            case "replace":
                container[key] = draw(values)
            case "nudge" if type(container[key]) is int:
                container[key] += draw(st.sampled_from([-2048, -1024, -1, 1, 256, 1024, 2048]))
            case "copy":
                like = [place for place in places if type(_at(MANIFESTS[golden], place)) is type(container[key])]
                if like:
                    container[key] = copy.deepcopy(_at(MANIFESTS[golden], draw(st.sampled_from(like))))
            case "repeat" if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case "drop":
                del container[key]
    return json.dumps(manifest).encode()


@st.composite
def damaged_texts(draw: st.DrawFn) -> bytes:
    """The golden manifest's text with one to four short ranges replaced by other bytes."""
    text = bytearray(TEXT)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text) - 1))
        text[begin : begin + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3) | st.sampled_from([b"0", b"9", b"-", b"1e9", b'"', b",", b"[", b"}"])
        )
    return bytes(text)


def _played_bytes(manifest: Manifest) -> int:
    model = manifest.model
    tensors = sum(math.prod(t.shape) * (manifest.sampler.steps if t.per_step else 1) for t in manifest.tensors)
    ports = sum(math.prod(port.shape) for port in manifest.ports)
    made = sum(math.prod(program.shape) for program in manifest.finish)
    carried = sum(math.prod(c.shape) for f in manifest.finish if isinstance(f, VideoFinish) for c in f.carry)
    return manifest.arena.bytes + 64 * math.prod(model.latent_shape) + 8 * (tensors + ports + made + carried)


def _open_and_play(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    with may_raise(BundleError, naming=str(folder)):
        bundle = Bundle.open(folder, backend="null")
        if _played_bytes(bundle.manifest) > PLAYED_BYTES:
            return
        try:
            for accelerated in (True, False):
                session = bundle.session()
                session.generate(**example_request(bundle, 1), accelerated=accelerated)
                if session.result_kind:
                    session.result()
        except BundleError as error:
            raise AssertionError("a bundle that opened was refused only when played") from error
        except SodaError:
            return


def _apart(offsets: Iterable[int]) -> bool:
    return all(after - before >= SLOT_BYTES for before, after in itertools.pairwise(sorted(offsets)))


@st.composite
def schedules(draw: st.DrawFn, careful: bool) -> bytes:
    """The golden manifest with another schedule, which reads every slot where it was written last.

    Slots are written half slots apart. A careful schedule no longer reads a slot once another one lies over it.
    """
    manifest = copy.deepcopy(MANIFEST)
    places: dict[str, int] = {}
    programs, steps = [], []
    for index in range(STEPS):
        reads = draw(st.lists(st.sampled_from(sorted(places)), unique=True, max_size=3)) if places else []
        writes = {}
        for slot in draw(st.lists(st.sampled_from(SLOTS), unique=True, max_size=2)):
            halves = draw(st.integers(0, 2 * len(SLOTS) - 2))
            writes[slot] = places[slot] if slot in reads else halves * SLOT_BYTES // 2
        if not _apart({**{slot: places[slot] for slot in reads}, **writes}.values()):
            reads, writes = [], {}
        offsets = {"read_offsets": [places[slot] for slot in reads], "write_offsets": list(writes.values())}
        steps.append({"program": index, **offsets})
        touched = {"reads": reads, "writes": list(writes)}
        programs.append({"file": f"step-{index:02}.onnx", "weights": "", "inputs": [], **touched, "flops": 0})
        if careful:
            places = {slot: place for slot, place in places.items() if all(_apart((place, w)) for w in writes.values())}
        places.update(writes)
    nothing: dict[str, Any] = {"weights": "", "inputs": [], "reads": [], "writes": [], "flops": 0}
    programs.append({"file": f"step-{STEPS:02}.onnx", **nothing})
    manifest.update(programs=programs, baseline_program=STEPS, steps=steps)
    manifest["files"].update({program["file"]: manifest["files"]["plan.json"] for program in programs})
    return json.dumps(manifest).encode()


@pytest.fixture
def roomy(folder: Path) -> Path:
    """A bundle with a file, empty of sense, for each step's own program and the baseline's."""
    for index in range(STEPS + 1):
        shutil.copyfile(folder / "plan.json", folder / f"step-{index:02}.onnx")
    return folder


@bounded
@given(mutated_manifests("labels"))
def test_a_manifest_of_random_values_is_refused_or_plays(folder: Path, text: bytes) -> None:
    _open_and_play(folder, text)


@bounded
@given(mutated_manifests("prompts"))
def test_a_manifest_of_prompts_of_random_values_is_refused_or_plays(text_folder: Path, text: bytes) -> None:
    _open_and_play(text_folder, text)


@settings(bounded, max_examples=30)
@given(mutated_manifests("v1"))
def test_a_manifest_of_version_1_of_random_values_is_refused_or_plays(v1_folder: Path, text: bytes) -> None:
    _open_and_play(v1_folder, text)


@settings(bounded, max_examples=30)
@given(mutated_manifests("v3"))
def test_a_manifest_of_version_3_of_random_values_is_refused_or_plays(v3_folder: Path, text: bytes) -> None:
    _open_and_play(v3_folder, text)


@settings(bounded, max_examples=30)
@given(mutated_manifests("v4"))
def test_a_manifest_of_version_4_of_random_values_is_refused_or_plays(v4_folder: Path, text: bytes) -> None:
    _open_and_play(v4_folder, text)


@bounded
@given(damaged_texts())
def test_a_manifest_of_random_bytes_is_refused_or_plays(folder: Path, text: bytes) -> None:
    _open_and_play(folder, text)


@settings(bounded, max_examples=30)
@given(schedules(careful=True))
def test_a_sound_random_schedule_plays(roomy: Path, text: bytes) -> None:
    (roomy / "manifest.json").write_bytes(text)
    latents = Bundle.open(roomy, backend="null").session().generate(0)
    assert latents.shape == (1, *MANIFEST["model"]["latent_shape"])


@bounded
@given(schedules(careful=False))
def test_a_careless_random_schedule_is_refused_or_plays(roomy: Path, text: bytes) -> None:
    _open_and_play(roomy, text)
