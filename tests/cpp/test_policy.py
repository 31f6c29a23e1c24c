"""Policies in C++: the decisions of Python, bit for bit, its latents, its refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from soda_runtime import Bundle, BundleError, EngineError, RequestError
from soda_runtime.automaton import Vote
from soda_runtime.philox import latent_noise
from soda_runtime.policy import POLICY_NAME

from tests.runtime.bundles import (
    GOLDEN_V1,
    GOLDEN_V4,
    GOLDEN_V5_POLICY,
    GOLDEN_V5_SADA,
    GOLDEN_V5_SKIP,
    copy_golden,
    fix_hashes,
    golden_request,
    golden_results,
    relative,
)
from tests.runtime.test_policy import (
    BAD_TABLES,
    LIES,
    REFUSED,
    mixed_requests,
    test_a_changed_file_of_a_policy_is_refused,
    test_a_policy_that_lies_is_refused,
    test_tables_of_a_policy_that_do_not_fit_are_refused,
)

from .fields import fields_of
from .library import CppSession, Library, has_backend

__all__ = [
    "BAD_TABLES",
    "LIES",
    "test_a_changed_file_of_a_policy_is_refused",
    "test_a_policy_that_lies_is_refused",
    "test_tables_of_a_policy_that_do_not_fit_are_refused",
]

needs_ort = pytest.mark.skipif(not has_backend("ort"), reason="the backend ort has not been built; `make cpp` says why")
VOTES = get_args(Vote)
ADAPTIVE = [GOLDEN_V5_POLICY, GOLDEN_V5_SADA]
NOT_OF_C = ("decisions that are no numbers", "fractions")


@pytest.fixture(params=ADAPTIVE, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


def test_golden_policies_decide_as_the_reference_did(library: Library, backend: str, golden: Path) -> None:
    session, expected = library.open(golden, backend=backend, threads=1).session(), golden_results(golden)
    latents = session.generate(**fields_of(golden_request(golden), Bundle.open(golden, backend="null")))
    assert np.array_equal(session.decisions(), expected["decisions"])
    assert relative(latents, expected["latents"]) < 1e-3


@needs_ort
@pytest.mark.parametrize("vote", VOTES)
def test_golden_policies_play_as_in_python(library: Library, golden: Path, vote: str) -> None:
    bundle = Bundle.open(golden, threads=1)
    python, cpp = bundle.session(), library.open(golden, threads=1).session()
    for change in ({}, {"seed": 9, "labels": [1, 2, 3]}, {"seed": 2**64 - 1, "labels": [5]}):
        request = golden_request(golden) | {"vote": vote} | change
        expected = python.generate(**request)
        assert relative(cpp.generate(**fields_of(request, bundle)), expected) < 1e-6
        assert np.array_equal(cpp.decisions(), python.decisions)
        assert np.array_equal(cpp.images(), python.images())


@needs_ort
def test_to_a_bundle_of_an_older_version_its_file_is_one_like_any_other(library: Library, tmp_path: Path) -> None:
    v4_folder = copy_golden(tmp_path / "bundle", GOLDEN_V4)
    (v4_folder / POLICY_NAME).write_bytes((GOLDEN_V5_POLICY / POLICY_NAME).read_bytes())
    manifest = json.loads((v4_folder / "manifest.json").read_text())
    manifest["files"][POLICY_NAME] = {"bytes": 0, "sha256": ""}
    (v4_folder / "manifest.json").write_text(json.dumps(manifest))
    fix_hashes(v4_folder)
    session = library.open(v4_folder, threads=1).session()
    assert not session.info.num_actions


@needs_ort
def test_what_a_sample_does_does_not_depend_on_its_batch(library: Library, golden: Path) -> None:
    session, request = library.open(golden, threads=1).session(), golden_request(golden)
    together = session.generate(seed=request["seed"], labels=request["labels"])
    decisions = session.decisions()
    shape = tuple(session.info.latent_axes[: session.info.latent_rank])
    noise = latent_noise(request["seed"], 0, 2, shape)
    for i, label in enumerate(request["labels"]):
        alone = session.generate(labels=[label], noise_initial=noise[i : i + 1])
        assert np.array_equal(session.decisions()[:, 0], decisions[:, i])
        assert np.array_equal(alone[0], together[i])


@needs_ort
def test_given_decisions_are_played(library: Library, golden: Path) -> None:
    bundle = Bundle.open(golden, threads=1)
    session, request = library.open(golden, threads=1).session(), golden_request(golden)
    found = session.generate(**fields_of(request, bundle))
    decisions = session.decisions()
    assert np.array_equal(session.generate(**fields_of(request | {"decisions": decisions}, bundle)), found)
    wanted = np.zeros(bundle.manifest.sampler.steps, int)
    wanted[[3, 5, 6]] = 1
    request |= {"decisions": wanted}
    python = bundle.session()
    assert relative(session.generate(**fields_of(request, bundle)), python.generate(**request)) < 1e-6
    assert np.array_equal(session.decisions(), np.stack([wanted] * 2, axis=1))


@needs_ort
def test_decisions_that_compute_everything_are_the_full_run(library: Library, golden: Path) -> None:
    session = library.open(golden, threads=1).session()
    full = session.generate(labels=[4], seed=1, policy="full")
    assert np.array_equal(session.generate(labels=[4], seed=1, baseline=1), full)
    computed = session.generate(labels=[4], seed=1, decisions=[0] * session.info.steps)
    assert relative(computed, full) < 1e-6  # rows of another table, of the same numbers
    assert relative(session.generate(labels=[4], seed=1, policy="frozen"), full) > 1e-4


@needs_ort
@pytest.mark.parametrize("requests", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_requests_of_every_kind_leave_nothing_to_the_next(library: Library, golden: Path, requests: int) -> None:
    """One session's requests, in any order, against those of sessions that had no other."""
    known = Bundle.open(golden, backend="null")
    kinds = [fields_of(request, known) for request in mixed_requests(known.manifest.sampler.steps)]
    bundle, expected = library.open(golden, threads=1), []
    for fields in kinds:
        fresh = bundle.session()
        expected.append((fresh.generate(**fields), _decisions(fresh)))
    session = bundle.session()
    for number in np.random.default_rng(1).integers(0, len(kinds), requests).tolist():
        latents, decisions = expected[number]
        assert np.array_equal(session.generate(**kinds[number]), latents), kinds[number]
        assert _decisions(session) == decisions, kinds[number]


@needs_ort
def test_steps_are_taken_one_by_one_and_decisions_read_between_them(library: Library, golden: Path) -> None:
    session, request = library.open(golden, threads=1).session(), golden_request(golden)
    fields = {name: request[name] for name in ("labels", "seed")}
    whole = session.generate(**fields)
    decisions = session.decisions()
    session.start(**fields)
    for step in range(session.info.steps):
        assert session.decisions().shape == (step, 2)
        session.step(step)
    assert np.array_equal(session.decisions(), decisions)
    assert np.array_equal(session.latents(), whole)


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in NOT_OF_C])
def test_a_request_that_the_policy_does_not_take_is_refused_and_changes_nothing(library: Library, case: str) -> None:
    """In the words of Python, but for the name of what it calls `accelerated`."""
    arguments, message = REFUSED[case]
    bundle = Bundle.open(GOLDEN_V5_POLICY, backend="null")
    session = library.open(GOLDEN_V5_POLICY, backend="null").session()
    expected = session.generate(labels=[1, 2], seed=1)
    request = {"labels": [1, 2], "seed": 1, **arguments}
    with pytest.raises(RequestError, match=message.replace("accelerated=False", "baseline=1")) as error:
        session.start(**fields_of(request, bundle))
    assert str(error.value).isprintable()
    assert np.array_equal(session.latents(), expected)
    with pytest.raises(RequestError, match=message):
        bundle.session().start(**request)


def test_a_bundle_without_a_policy_says_so(library: Library) -> None:
    bundle = library.open(GOLDEN_V5_SKIP, backend="null")
    session = bundle.session()
    assert (bundle.info().policy, bundle.info().num_actions) == (b"", 0)
    with pytest.raises(RequestError, match="no request has been started"):
        session.decisions()
    with pytest.raises(RequestError, match="this bundle has no policy; build it with --policy"):
        session.generate(labels=[1], policy="adaptive")
    with pytest.raises(RequestError, match="vote is for policy='adaptive'; this request plays 'frozen'"):
        session.generate(labels=[1], vote="any")
    session.generate(labels=[1])
    with pytest.raises(RequestError, match="this request plays 'frozen'"):
        session.decisions()


def test_a_bundle_names_its_policy(library: Library) -> None:
    for folder in ADAPTIVE:
        policy = Bundle.open(folder, backend="null").policy
        assert policy is not None
        info = library.open(folder, backend="null").info()
        assert (info.policy.decode(), info.num_actions) == (policy.policy.name, len(policy.policy.actions))


@needs_ort
def test_a_request_from_latents_follows_the_schedule(library: Library, golden: Path) -> None:
    session = library.open(golden, threads=1).session()
    latents = np.zeros((1, *session.info.latent_axes[: session.info.latent_rank]), np.float32)
    start: dict[str, Any] = {"labels": [1], "start_latents": latents, "start_step": 4}
    played = session.generate(**start)
    assert np.array_equal(played, session.generate(**start, policy="frozen"))
    with pytest.raises(RequestError, match="needs the first steps"):
        session.generate(**start, policy="adaptive")


def test_signals_of_another_shape_are_refused_when_they_are_opened(
    library: Library, backend: str, tmp_path: Path
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_POLICY)
    (folder / "signals.onnx").write_bytes((GOLDEN_V5_SADA / "signals.onnx").read_bytes())
    fix_hashes(folder)
    session = library.open(folder, backend=backend, threads=1).session()
    with pytest.raises(EngineError, match=r"signals\.onnx: input '"):
        session.start(labels=[1])
    assert session.generate(labels=[1], policy="frozen").shape[0] == 1


def test_signals_that_take_weights_from_a_file_that_is_not_listed_are_refused(
    library: Library, tmp_path: Path
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_POLICY)
    program = (folder / "program-00.onnx").read_bytes()
    (folder / "signals.onnx").write_bytes(program.replace(b"weights.safetensors", b"weights.safetensorx"))
    fix_hashes(folder)
    for open_bundle in (Bundle.open, library.open):
        with pytest.raises(BundleError, match=r"signals\.onnx: takes weights from"):
            open_bundle(folder, backend="null")


def test_a_policy_of_more_than_16_mib_is_refused(
    tmp_path: Path, refuses: Callable[[Path, str], None], opens: Callable[[Path], None]
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_POLICY)
    text = (folder / POLICY_NAME).read_bytes()
    for size, check in ((16 << 20, opens), ((16 << 20) + 1, lambda bundle: refuses(bundle, POLICY_NAME))):
        (folder / POLICY_NAME).write_bytes(text.ljust(size))
        fix_hashes(folder)
        check(folder)


def _decisions(session: CppSession) -> list[list[int]] | None:
    try:
        decisions: list[list[int]] = session.decisions().tolist()
    except RequestError:  # of a request that is not adaptive
        return None
    return decisions


def test_an_older_bundle_plays_its_schedule(library: Library) -> None:
    session: CppSession = library.open(GOLDEN_V1, backend="null").session()
    with pytest.raises(RequestError, match="this bundle has no policy"):
        session.start(labels=[1], policy="adaptive")
    session.generate(labels=[1], policy="frozen")
