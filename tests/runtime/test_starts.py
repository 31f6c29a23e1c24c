"""Requests that start at a step from given latents: what they compute, which steps the cache serves, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from soda_runtime import Bundle, BundleError, Noise, RequestError, Session
from soda_runtime.manifest import Manifest, Program, Slot, Step
from soda_runtime.signature import slot_of
from soda_runtime.starts import cached_steps

from .bundles import GOLDEN_V5, GOLDEN_V5_INPAINT, copy_golden, golden_request, read_manifest, relative, retable, zeros
from .toys import SHAPE, STEPS, Toy

LABELS = [1, 4, 2]


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


NOISE = Noise(numbers(3, *SHAPE), numbers(STEPS, 3, *SHAPE, seed=1))
LATENTS = numbers(3, *SHAPE, seed=2)


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize(
    "toy",
    [
        Toy(fresh=0), Toy(fresh=1, state_size=2), Toy(fresh=2, state_size=3, stochastic=True),
        Toy(fresh=1, state_size=2, fitted=True, windowed=True), Toy(fresh=0, stochastic=True, learned=True),
    ],
)  # fmt: skip
def test_every_start_is_played_as_the_format_says(toy: Toy, accelerated: bool, tmp_path: Path) -> None:
    session = Session.open(toy.write(tmp_path / "toy"))
    for first in (*range(STEPS), 1):  # buffers are bound anew for another start
        found = session.generate(LABELS, noise=NOISE, start_latents=LATENTS, start_step=first, accelerated=accelerated)
        assert relative(found, toy.play(LABELS, NOISE, accelerated, first, LATENTS)) < 1e-5
    assert relative(session.generate(LABELS, noise=NOISE), toy.play(LABELS, NOISE)) < 1e-5


def test_a_start_in_the_middle_of_a_window_prepares_that_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soda_runtime.playback.MAX_WINDOW_BYTES", 3 * 4 * len(LABELS))
    toy = Toy(fresh=0, windowed=True)
    session = Session.open(toy.write(tmp_path / "toy"))
    found = session.generate(LABELS, noise=NOISE, start_latents=LATENTS, start_step=1)
    assert session.playback.window == 3
    assert relative(found, toy.play(LABELS, NOISE, True, 1, LATENTS)) < 1e-5


def test_steps_of_a_start_run_in_order_from_there(tmp_path: Path) -> None:
    session = Session.open(Toy(fresh=0).write(tmp_path / "toy"), backend="null")
    session.start(LABELS, start_latents=LATENTS[:1], start_step=2)
    assert session.next_step == 2
    with pytest.raises(RequestError, match="next is 2"):
        session.step(0)
    session.step(2)
    session.step(3)
    assert session.latents().shape == LATENTS.shape


@pytest.mark.parametrize(
    ("strength", "of_flows", "first"),
    [(1.0, 0, 0), (0.8, 0, 1), (0.75, 0, 1), (0.6, 0, 2), (0.25, 0, 3), (0.6, 1, 1), (0.2, 1, 3), (0.01, 1, 3)],
)
def test_strength_is_that_of_diffusers_pipelines(strength: float, of_flows: int, first: int, tmp_path: Path) -> None:
    toy = Toy(fresh=0).write(tmp_path / "toy")
    levels = np.full((STEPS, 3), of_flows, np.float32)
    retable(toy, "start.levels", ("F32", [STEPS, 3], levels.tobytes()))
    session = Session.open(toy, backend="null")
    session.start(0, start_latents=LATENTS[:1], strength=strength)
    assert session.next_step == first


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"strength": 0.5}, "go with start_latents"),
    ({"start_step": 0}, "go with start_latents"),
    ({"start_latents": LATENTS}, "give one of strength and start_step"),
    ({"start_latents": LATENTS, "strength": 0.5, "start_step": 1}, "give one of strength and start_step"),
    ({"start_latents": LATENTS, "start_step": STEPS}, r"start_step 4 is not one of the steps 0 \.\. 3"),
    ({"start_latents": LATENTS, "start_step": -1}, "start_step -1"),
    ({"start_latents": LATENTS, "start_step": 1.0}, "start_step 1.0"),
    ({"start_latents": LATENTS, "start_step": True}, "start_step True"),
    ({"start_latents": LATENTS, "strength": 0}, "strength 0 is not"),
    ({"start_latents": LATENTS, "strength": 1.5}, "strength 1.5 is not"),
    ({"start_latents": LATENTS, "strength": float("nan")}, "strength nan is not"),
    ({"start_latents": LATENTS, "strength": "0.5"}, "strength '0.5' is not"),
    ({"start_latents": LATENTS, "strength": 0.2}, "leaves none to run; give 0.25 or more"),
    ({"start_latents": LATENTS[:2], "start_step": 1}, "2 of start_latents do not agree"),
    ({"start_latents": LATENTS[0], "start_step": 1}, "expected .samples, 1, 2, 2."),
    ({"start_latents": LATENTS[:0], "start_step": 1}, "expected .samples, 1, 2, 2."),
    ({"start_latents": LATENTS * np.float32(np.inf), "start_step": 1}, "not finite"),
    ({"start_latents": "picture.png", "start_step": 1}, "not an array of real numbers"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_a_start_that_does_not_fit_is_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    session = Session.open(Toy(fresh=0).write(tmp_path / "toy"), backend="null")
    with pytest.raises(RequestError, match=message) as caught:
        session.start(LABELS, **arguments)
    assert str(caught.value).isprintable()


def test_a_bundle_without_the_tables_refuses_a_start_and_plays_the_rest() -> None:
    session = Session.open(GOLDEN_V5, backend="null")
    latents = session.generate(**golden_request(GOLDEN_V5))
    with pytest.raises(RequestError, match=r"cannot start from latents.*build it again"):
        session.start(**golden_request(GOLDEN_V5), start_latents=latents, start_step=1)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("start.levels", zeros("F32", [STEPS, 2])), ("start.levels", zeros("F32", [STEPS - 1, 3])),
        ("start.levels", zeros("F64", [STEPS, 3])), ("start.levels", zeros("F32", [STEPS, 3, 1])),
        ("start.levels", ("F32", [STEPS, 3], b"\0\0\xc0\x7f" * 3 * STEPS)), ("start.levels", None),
        ("start.coefficients", zeros("F32", [STEPS, 1, 8])), ("start.coefficients", zeros("F32", [STEPS, 9])),
        ("start.coefficients", zeros("F32", [STEPS, 0, 9])), ("start.noise", zeros("F32", [STEPS, 3])),
    ],
)  # fmt: skip
def test_malformed_tables_of_starts_are_refused(name: str, table: Any, tmp_path: Path) -> None:
    toy = Toy(fresh=1, state_size=2).write(tmp_path / "toy")
    retable(toy, name, table)
    with pytest.raises(BundleError, match=r"tables\.safetensors.*rebuild the bundle") as caught:
        Bundle.open(toy, backend="null")
    assert str(caught.value).isprintable()


def test_bundles_of_older_versions_have_no_such_tables(tmp_path: Path) -> None:
    folder = copy_golden(tmp_path / "v4", GOLDEN_V5.with_name("v4"))
    retable(folder, "start.levels", zeros("F32", [read_manifest(folder)["sampler"]["steps"], 3]))
    with pytest.raises(BundleError, match=r"start\.levels"):
        Bundle.open(folder, backend="null")


SLOTS = ("a", "b")


@st.composite
def schedules(draw: st.DrawFn) -> Manifest:
    """Random steps over two slots: each reads what was written before, at ages that are there, and writes anything."""
    programs, steps, counts = [], [], dict.fromkeys(SLOTS, 0)
    for index in range(draw(st.integers(1, 9))):
        readable = [f"{s}@{age}" if age else s for s in SLOTS for age in range(min(3, counts[s]))]
        reads = draw(st.lists(st.sampled_from(readable), unique=True)) if readable else []
        writes = draw(st.lists(st.sampled_from(SLOTS), unique=True))
        for slot in writes:
            counts[slot] += slot not in reads
        programs.append(Program("", "", (), tuple(reads), tuple(writes), 0))
        steps.append(Step(index, (), ()))
    toy = Toy().manifest()
    slots = tuple(Slot(name, (1,), "float32") for name in SLOTS)
    sampler = replace(toy.sampler, steps=len(steps))
    return replace(toy, programs=tuple(programs), steps=tuple(steps), slots=slots, sampler=sampler)


def steps_that_can_run(manifest: Manifest, first: int) -> set[int]:
    """Those whose reads are values all of whose writes were made, and so are the newer ones of their slots. The toy's
    programs take no prepared tensor, so one that touches no slot does not call the model."""
    values: dict[str, list[set[int]]] = {slot: [] for slot in SLOTS}  # oldest first: the steps that write each
    running: set[int] = set()
    for index, step in enumerate(manifest.steps):
        program = manifest.programs[step.program]
        needed = [values[slot][-1 - age :] for slot, age in map(slot_of, program.reads)]
        calls = program.reads or program.writes
        if index >= first and calls and all(writers <= running for newest in needed for writers in newest):
            running.add(index)
        for slot in program.writes:
            if slot in program.reads:
                values[slot][-1].add(index)
            else:
                values[slot].append({index})
    return running


@given(schedules())
def test_the_steps_whose_values_are_there_run_the_schedules_programs(manifest: Manifest) -> None:
    steps = len(manifest.steps)
    programs = [manifest.programs[step.program] for step in manifest.steps]
    assert cached_steps(manifest, 0) == {i for i in range(steps) if programs[i].reads or programs[i].writes}
    for first in range(steps):
        cached = cached_steps(manifest, first)
        assert cached == steps_that_can_run(manifest, first)
        assert cached >= {i for i in range(first, steps) if programs[i].writes and not programs[i].reads}


def test_an_inpainting_keeps_what_lies_outside_the_mask_and_begins_with_noise_at_strength_1() -> None:
    session, request = Session.open(GOLDEN_V5_INPAINT), golden_request(GOLDEN_V5_INPAINT)
    clean = np.array(request.pop("start_latents"), np.float32)
    del request["start_step"]
    mask = np.zeros((1, 1, 8, 8), np.float32)
    mask[:, :, :4] = 1
    request["inputs"] = {"mask": mask}
    whole = session.generate(**request, start_latents=clean, strength=1)
    assert session.playback.start is None
    assert session.playback.cached == set(range(6))
    np.testing.assert_array_equal(whole[:, :, 4:], clean[:, :, 4:])
    started = session.generate(**request, start_latents=clean, start_step=0)
    assert session.playback.start == 0
    assert not np.array_equal(started, whole)
    np.testing.assert_array_equal(started[:, :, 4:], clean[:, :, 4:])
    request["inputs"] = {"mask": np.ones_like(mask)}  # without latents it draws as usual
    assert np.isfinite(session.generate(**request)).all()
    with pytest.raises(RequestError, match="mask"):
        session.generate(request["labels"])


@pytest.mark.parametrize(
    "table", [None, zeros("F32", [6, 3]), zeros("F32", [5, 2]), zeros("F64", [6, 2]), zeros("F32", [6, 2, 1])]
)
def test_a_malformed_table_of_known_latents_is_refused(table: Any, tmp_path: Path) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_INPAINT)
    retable(folder, "start.known", table)
    if table is None:  # an ordinary bundle then, whose last two tensors are zeros
        Bundle.open(folder, backend="null")
        return
    with pytest.raises(BundleError, match=r"start\.known"):
        Bundle.open(folder, backend="null")
