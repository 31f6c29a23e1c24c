"""Requests that start at a step from given latents, in C++: as in Python, and refused alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, Noise, RequestError
from soda_runtime.philox import latent_noise
from soda_runtime.request import example_request
from soda_runtime.starts import cached_steps

from tests.runtime.bundles import (
    GOLDEN_V5,
    GOLDEN_V5_INPAINT,
    GOLDEN_V5_PORTS,
    GOLDEN_V5_SKIP,
    GOLDEN_V5_TEXT,
    add_starts,
    copy_golden,
    golden_request,
    relative,
    retable,
    zeros,
)
from tests.runtime.test_starts import LABELS, LATENTS, NOISE, REFUSED
from tests.runtime.test_starts import test_malformed_tables_of_starts_are_refused as malformed
from tests.runtime.toys import STEPS, Toy

from .fields import fields_of
from .library import Library, has_backend

needs_ort = pytest.mark.skipif(not has_backend("ort"), reason="the backend ort has not been built; `make cpp` says why")
NOT_OF_C = ("True", "1.0", "'0.5'", "not an array", "expected", "give one of", "0 or more")
(TABLES,) = (mark.args[1] for mark in malformed.pytestmark)


@needs_ort
@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize(
    "toy", [Toy(fresh=2, state_size=3, stochastic=True), Toy(fresh=1, state_size=2, fitted=True, windowed=True)]
)
def test_every_start_is_played_as_the_format_says(
    library: Library, tmp_path: Path, toy: Toy, accelerated: bool
) -> None:
    session = library.open(toy.write(tmp_path / "toy"), threads=1).session()
    for first in (*range(STEPS), 1):
        found = session.generate(
            labels=LABELS, noise_initial=NOISE.initial, noise_steps=NOISE.steps, start_latents=LATENTS,
            start_step=first, baseline=int(not accelerated),
        )  # fmt: skip
        assert relative(found, toy.play(LABELS, NOISE, accelerated, first, LATENTS)) < 1e-5
    found = session.generate(labels=LABELS, noise_initial=NOISE.initial, noise_steps=NOISE.steps)
    assert relative(found, toy.play(LABELS, NOISE)) < 1e-5


@needs_ort
def test_a_start_computes_where_the_schedule_skips(library: Library) -> None:
    session, other = library.open(GOLDEN_V5_SKIP, threads=1).session(), Bundle.open(GOLDEN_V5_SKIP, threads=1).session()
    latents = latent_noise(1, 2, 2, (1, 8, 8))
    for first in range(8):
        initial, *rest = (latent_noise(3, stream, 2, (1, 8, 8)) for stream in range(9))
        noise = Noise(initial, np.stack(rest))
        found = session.generate(
            labels=[3, 7], noise_initial=noise.initial, noise_steps=noise.steps, start_latents=latents, start_step=first
        )
        expected = other.generate([3, 7], noise=noise, start_latents=latents, start_step=first)
        assert {2, 4, 5}.isdisjoint(other.playback.cached)
        assert relative(found, expected) < 1e-6


@needs_ort
@pytest.mark.parametrize("golden", [GOLDEN_V5, GOLDEN_V5_TEXT, GOLDEN_V5_PORTS], ids=lambda golden: golden.name)
def test_golden_bundles_with_tables_of_starts_play_as_in_python(library: Library, golden: Path, tmp_path: Path) -> None:
    folder = add_starts(copy_golden(tmp_path / "bundle", golden), fresh=2)
    bundle, cpp = Bundle.open(folder, threads=1), library.open(folder, threads=1)
    request = {**example_request(bundle, 2), "seed": 4}
    latents = latent_noise(3, 9, 1, bundle.manifest.model.latent_shape)
    python, session, steps = bundle.session(), cpp.session(), bundle.manifest.sampler.steps
    assert cpp.info().takes_start_latents == 1
    for first in (0, 1, steps // 2, steps - 1):
        started = {**request, "start_latents": latents, "start_step": first}
        expected = python.generate(**started)
        assert relative(session.generate(**fields_of(started, bundle)), expected) <= 1e-5
        assert cpp.step(first).full_steps == steps - first - len(cached_steps(bundle.manifest, first))
    for strength in (1.0, 0.55, 0.2):
        started = {**request, "start_latents": latents, "strength": strength}
        session.start(**fields_of(started, bundle))
        python.start(**started)
        assert session.next_step() == python.next_step


def test_a_bundle_without_the_tables_refuses_a_start(library: Library) -> None:
    bundle = library.open(GOLDEN_V5, backend="null")
    shape = bundle.info().latent_axes[: bundle.info().latent_rank]
    assert bundle.info().takes_start_latents == 0
    assert bundle.step(1).full_steps == -1
    with pytest.raises(RequestError, match=r"cannot start from latents.*build it again"):
        bundle.session().start(labels=[1], start_latents=np.zeros((1, *shape), np.float32), start_step=1)


@pytest.mark.parametrize(
    ("arguments", "message"), [case for case in REFUSED if not any(word in case[1] for word in NOT_OF_C)]
)
def test_a_start_that_does_not_fit_is_refused(
    library: Library, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    session = library.open(Toy(fresh=0).write(tmp_path / "toy"), backend="null").session()
    if arguments == {"start_step": 0}:
        pytest.skip("0 is what the field holds where it is not given")
    with pytest.raises(RequestError) as caught:
        session.start(labels=LABELS, **arguments)
    said = str(caught.value)
    assert "start" in said or "strength" in said, message


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_malformed_tables_of_starts_are_refused(refuses: Any, name: str, table: Any, tmp_path: Path) -> None:
    toy = Toy(fresh=1, state_size=2).write(tmp_path / "toy")
    retable(toy, name, table)
    refuses(toy, "tables.safetensors")


def test_a_start_is_mixed_with_the_noise_of_its_seed(library: Library, tmp_path: Path) -> None:
    toy = Toy(fresh=0).write(tmp_path / "toy")
    session, python = library.open(toy, backend="null").session(), Bundle.open(toy, backend="null").session()
    found = session.generate(labels=LABELS, seed=3, start_latents=LATENTS[:1], start_step=2)
    start = {"start_latents": LATENTS[:1], "start_step": 2}
    assert np.array_equal(found, python.generate(LABELS, seed=3, **start))
    assert not np.array_equal(found, python.generate(LABELS, noise=Noise(NOISE.initial), **start))


@needs_ort
def test_an_inpainting_is_played_as_in_python(library: Library) -> None:
    bundle, cpp = Bundle.open(GOLDEN_V5_INPAINT, threads=1), library.open(GOLDEN_V5_INPAINT, threads=1)
    assert cpp.info().inpaints == 1
    request = golden_request(GOLDEN_V5_INPAINT)
    del request["start_step"]
    python, session = bundle.session(), cpp.session()
    for asked in ({"strength": 1.0}, {"strength": 0.5}, {"start_step": 0}):
        expected = python.generate(**{**request, **asked})
        assert relative(session.generate(**fields_of({**request, **asked}, bundle)), expected) <= 1e-5
    with pytest.raises(RequestError, match="give one of strength and start_step"):
        session.start(**fields_of({**request, "strength": 0.5, "start_step": 1}, bundle))
    del request["start_latents"]
    expected = python.generate(**request)
    assert relative(session.generate(**fields_of(request, bundle)), expected) <= 1e-5


@pytest.mark.parametrize("table", [zeros("F32", [6, 3]), zeros("F32", [5, 2]), zeros("F32", [6, 2, 1])])
def test_a_malformed_table_of_known_latents_is_refused(refuses: Any, table: Any, tmp_path: Path) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_INPAINT)
    retable(folder, "start.known", table)
    refuses(folder, "tables.safetensors")
