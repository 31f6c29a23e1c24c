"""Policies in C++: the decisions of Python, bit for bit, its latents, its refusals."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from soda_runtime import Bundle, BundleError, EngineError, RequestError
from soda_runtime.automaton import Automaton, Vote
from soda_runtime.philox import latent_noise
from soda_runtime.policy import POLICY_NAME, Policy, policy_text
from soda_runtime.strict_json import decode

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
from tests.runtime.test_automaton import NUMBERS, POLICIES
from tests.runtime.test_automaton import STEPS as DRAWN_STEPS
from tests.runtime.test_policy import (
    BAD_TABLES,
    LIES,
    REFUSED,
    mixed_requests,
    test_a_changed_file_of_a_policy_is_refused,
    test_a_policy_that_lies_is_refused,
    test_tables_of_a_policy_that_do_not_fit_are_refused,
)

from .library import BUILD, CppSession, Library, fields_of, has_backend

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


# ---- decisions on any numbers


@pytest.fixture(scope="module")
def driver(library: Library) -> Iterator[Callable[[str], list[int]]]:
    """The automaton of C++, one case after the other."""
    path = BUILD / "bin" / "drive_automaton"
    if not path.exists():
        pytest.skip(f"{path.name} has not been built; run `make cpp`")
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def drive(line: str) -> list[int]:
            stdin.write(line + "\n")
            stdin.flush()
            return [int(number) for number in stdout.readline().split()]

        yield drive
        stdin.close()


def _line(policy: Policy, vote: Vote, signals: NDArray[np.float32], replay: NDArray[np.int64] | None) -> str:
    steps, samples, _ = signals.shape
    numbers = [VOTES.index(vote), steps, samples, int(replay is not None), signals.size]
    numbers += [] if replay is None else replay.tolist()
    numbers += signals.reshape(-1).view(np.uint32).tolist()
    return " ".join(map(str, numbers)) + " " + policy_text(policy).replace("\n", "")


def _decided(
    policy: Policy, vote: Vote, signals: NDArray[np.float32], replay: NDArray[np.int64] | None
) -> list[int]:
    automaton, found = Automaton(policy, vote, replay), list[int]()
    for step, heard in enumerate(signals):
        needed = automaton.needs_signals(step)
        found += [automaton.action, automaton.variant, int(needed)]
        automaton.observe(step, heard.tolist() if needed else None)
    return found


def test_decisions_are_those_of_python_on_any_numbers(driver: Callable[[str], list[int]]) -> None:
    @given(POLICIES, st.integers(1, 4), st.sampled_from(VOTES), st.booleans(), st.data())
    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    def check(policy: Policy, samples: int, vote: Vote, replays: bool, data: st.DataObject) -> None:
        shape = (DRAWN_STEPS, 1 if vote == "sample" else samples, len(policy.held))
        count = math.prod(shape)
        signals = np.array(data.draw(st.lists(NUMBERS, min_size=count, max_size=count)), np.float32).reshape(shape)
        actions = st.lists(st.integers(0, 2), min_size=DRAWN_STEPS, max_size=DRAWN_STEPS)
        replay = np.array([0, *data.draw(actions)[1:]]) if replays else None
        assert driver(_line(policy, vote, signals, replay)) == _decided(policy, vote, signals, replay)

    check()


def test_decisions_at_the_edge_of_a_threshold_are_those_of_python(driver: Callable[[str], list[int]]) -> None:
    """Thresholds that are values of the run itself, or next to one in binary64: what is added or divided in another
    order, or rounded once instead of twice, decides otherwise."""
    rng = np.random.default_rng(0)
    rules = [{"action": 1, "always": False, "threshold": 0.0} for _ in range(DRAWN_STEPS - 1)]
    skipped = 0
    for number in range(400):
        q = 1 + number % 4
        given = {
            "format": "soda-policy", "version": 1, "name": "drawn", "signals": "s", "held": rng.random(q) < 0.5,
            "root": rng.random() < 0.5, "accumulate": rng.random() < 0.5, "power": rng.integers(5), "max_run": 3,
            "gap": 2, "tables": "t", "rules": rules,
            "actions": [{"name": n, "program": i, "table": n, "signals": "h"} for i, n in enumerate(("full", "skip"))],
        }  # fmt: skip
        given = json.loads(json.dumps(given, default=lambda value: value.tolist()))
        policy = decode(Policy, given)
        vote: Vote = VOTES[number % 3]
        samples = 1 if vote == "sample" else int(rng.integers(1, 6))
        signals = rng.uniform(0.1, 1.0, (DRAWN_STEPS, samples, q)).astype(np.float32)
        for step in range(DRAWN_STEPS - 1):  # a threshold from what is compared, given the steps before
            value = _compared(decode(Policy, given), vote, signals, step)
            given["rules"][step]["threshold"] = float(np.nextafter(value, value + rng.integers(-1, 2)))
        policy = decode(Policy, given)
        expected = _decided(policy, vote, signals, None)
        assert driver(_line(policy, vote, signals, None)) == expected
        skipped += sum(action > 0 for action in expected[::3])
    assert 1000 < skipped < 3000


def _compared(policy: Policy, vote: Vote, signals: NDArray[np.float32], step: int) -> float:
    """The greatest value that Python compares after a step."""
    seen: list[float] = []

    class Noting(Automaton):
        def _values(self, computed: bool) -> list[float]:
            values = super()._values(computed)
            seen.append(max(values, default=0.0))
            return values

    automaton = Noting(policy, vote)
    for i in range(step + 1):
        automaton.observe(i, signals[i].tolist() if automaton.needs_signals(i) else None)
    return seen[-1]


def test_random_policies_are_played_as_in_python(library: Library, tmp_path: Path) -> None:
    """Whole requests on the checking backend, whose signals are scripted."""
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_SADA)
    written = json.loads((folder / POLICY_NAME).read_text())
    steps, rng = len(written["rules"]) + 1, np.random.default_rng(5)
    for _ in range(40):
        rules = [
            {"action": int(rng.integers(3)), "always": bool(rng.random() < 0.2), "threshold": float(rng.choice([0, 1]))}
            for _ in range(steps - 1)
        ]
        drawn = written | {
            "rules": rules, "held": (rng.random(len(written["held"])) < 0.5).tolist(), "root": bool(rng.integers(2)),
            "accumulate": bool(rng.integers(2)), "power": int(rng.integers(5)), "max_run": int(rng.integers(1, 17)),
        }  # fmt: skip
        (folder / POLICY_NAME).write_text(json.dumps(drawn))
        fix_hashes(folder)
        bundle, cpp = Bundle.open(folder, backend="null"), library.open(folder, backend="null").session()
        for vote in VOTES:
            python = bundle.session()
            request = {"labels": [1, 2, 3], "seed": 4, "vote": vote}
            expected = python.generate(**request)
            assert np.array_equal(cpp.generate(**fields_of(request, bundle)), expected)
            assert np.array_equal(cpp.decisions(), python.decisions)


def test_a_random_replay_is_played_as_in_python(library: Library, golden: Path) -> None:
    bundle = Bundle.open(golden, backend="null")
    assert bundle.policy is not None
    session, policy = library.open(golden, backend="null").session(), bundle.policy.policy
    rng, steps, played = np.random.default_rng(6), bundle.manifest.sampler.steps, 0
    for _ in range(200):
        samples = int(rng.integers(1, 4))
        actions = rng.integers(-1, len(policy.actions) + 1, (steps, samples))
        actions[rng.random((steps, samples)) < rng.choice([0.5, 0.9])] = 0
        actions = np.clip(actions, 0, len(policy.actions) - 1) if rng.random() < 0.8 else actions
        actions[0] = 0 if rng.random() < 0.9 else 1
        given = actions if rng.random() < 0.7 else actions[:, 0]
        request = {"labels": list(range(samples)), "decisions": given, "vote": str(rng.choice(["", *VOTES]))}
        fields = fields_of(request, bundle)
        python = bundle.session()
        try:
            python.generate(**request)
        except RequestError as error:
            with pytest.raises(RequestError, match=f"^{re.escape(str(error))}$"):
                session.start(**fields)
            continue
        session.generate(**fields)
        assert np.array_equal(session.decisions(), python.decisions)
        played += 1
    assert 40 < played < 180


def test_an_older_bundle_plays_its_schedule(library: Library) -> None:
    session: CppSession = library.open(GOLDEN_V1, backend="null").session()
    with pytest.raises(RequestError, match="this bundle has no policy"):
        session.start(labels=[1], policy="adaptive")
    session.generate(labels=[1], policy="frozen")
