"""What a caller sees and does while a request runs: a callback after every step, previews, cancelling; cut prompts."""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Cancelled, Request, RequestError, Session, StepDone

from .bundles import GOLDEN, GOLDEN_V5_TEXT, LABELS, add_previews, copy_golden

PROMPT: dict[str, Any] = {"prompt": "a red circle", "seed": 4}


@pytest.fixture
def session() -> Session:
    return Session.open(GOLDEN, threads=1)


@pytest.fixture(scope="module")
def previewing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text bundle whose clean sample is, so it says, the latents before each step."""
    pytest.importorskip("tokenizers")
    return add_previews(copy_golden(tmp_path_factory.mktemp("previews") / "bundle", GOLDEN_V5_TEXT), 1.0, 0.0)


def test_every_field_of_a_request_is_an_argument() -> None:
    fields = [field.name for field in dataclasses.fields(Request)]
    for method in (Session.generate, Session.start):
        assert list(inspect.signature(method).parameters) == ["self", *fields]
    with pytest.raises(TypeError, match="promt"):
        Session.open(GOLDEN).generate(promt="")  # type: ignore[call-arg]


def test_the_callback_sees_every_step_and_changes_nothing(session: Session) -> None:
    expected, seen = session.generate(LABELS, seed=9), list[tuple[int, int]]()
    latents: list[np.ndarray] = []

    def see(step: StepDone) -> None:
        seen.append((step.index, step.num_steps))
        latents.append(step.latents())

    assert np.array_equal(session.generate(LABELS, seed=9, on_step=see), expected)
    steps = session.bundle.manifest.sampler.steps
    assert seen == [(index, steps) for index in range(steps)]
    assert np.array_equal(latents[-1], expected)
    assert not np.array_equal(latents[0], latents[1])


def test_a_preview_and_what_is_made_of_it_leave_the_run_as_it_is(previewing: Path) -> None:
    session = Session.open(previewing, threads=1)
    expected, images = session.generate(**PROMPT), list[np.ndarray]()
    previews: list[np.ndarray] = []

    def see(step: StepDone) -> None:
        previews.append(step.preview_result())
        images.append(session.images())
        np.testing.assert_allclose(step.preview(), before[0], rtol=0, atol=1e-4)
        before[0] = step.latents()

    session.start(**PROMPT)
    with pytest.raises(RequestError, match="no preview before the first step"):
        session.preview()
    before = [session.latents()]
    assert np.array_equal(session.generate(**PROMPT, on_step=see), expected)
    for earlier, preview in zip(images[:-1], previews[1:], strict=True):
        np.testing.assert_allclose(preview, earlier, rtol=0, atol=1e-3)


def test_a_bundle_without_the_table_says_so(session: Session) -> None:
    session.start(LABELS)
    session.step(0)
    with pytest.raises(RequestError, match="build it again"):
        session.preview()


def test_a_callback_cancels(session: Session) -> None:
    expected = session.generate(LABELS, seed=1)
    with pytest.raises(Cancelled, match="after 3 of"):
        session.generate(LABELS, seed=1, on_step=lambda step: step.cancel() if step.index == 2 else None)
    with pytest.raises(RequestError, match="call start"):
        session.latents()
    assert np.array_equal(session.generate(LABELS, seed=1), expected)
    last = session.bundle.manifest.sampler.steps - 1
    with pytest.raises(Cancelled):
        session.generate(LABELS, on_step=lambda step: step.cancel() if step.index == last else None)


def test_another_thread_cancels_and_may_not_look(session: Session) -> None:
    refused: list[str] = []

    def elsewhere() -> None:
        try:
            session.latents()
        except RequestError as error:
            refused.append(str(error))
        session.cancel()

    def see(step: StepDone) -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    with pytest.raises(Cancelled, match="after 1 of"):
        session.generate(LABELS, on_step=see)
    assert "busy" in refused[0]
    session.cancel()  # nothing runs
    session.generate(LABELS)


@pytest.mark.parametrize("play", [Session.generate, Session.reset, Session.close, lambda session: session.step(1)])
def test_a_callback_may_not_play(session: Session, play: Callable[[Session], object]) -> None:
    with pytest.raises(RequestError, match="on_step may look"):
        session.generate(LABELS, on_step=lambda step: play(session))
    session.generate(LABELS)


def test_what_a_callback_raises_ends_the_request(session: Session) -> None:
    with pytest.raises(ZeroDivisionError):
        session.generate(LABELS, on_step=lambda step: 1 // 0)
    with pytest.raises(RequestError, match="call start"):
        session.latents()
    with pytest.raises(RequestError, match="on_step is int"):
        session.generate(LABELS, on_step=3)  # type: ignore[arg-type]


def test_a_step_that_is_over_answers_no_more(session: Session) -> None:
    steps: list[StepDone] = []
    session.generate(LABELS, on_step=steps.append)
    with pytest.raises(RequestError, match="step 0 is over"):
        steps[0].latents()


def test_cut_prompts_are_told(previewing: Path, caplog: pytest.LogCaptureFixture) -> None:
    session, long = Session.open(previewing, threads=1), "a red circle above a blue circle above a red circle"
    session.start(prompt=["a red circle", long], negative_prompt=long.upper())
    cut = session.truncated
    assert [(each.field, each.sample, each.max_tokens) for each in cut] == [("prompt", 1, 8), ("negative_prompt", 0, 8)]
    assert all(long.endswith(each.lost) and each.lost for each in cut)
    assert [record.getMessage() for record in caplog.records] == [str(each) for each in cut]
    session.start(**PROMPT)
    assert session.truncated == ()
