"""Bundles with a policy: what requests play, and what is refused before anything is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, EngineError, Noise, RequestError, Session
from soda_runtime.adaptive import AdaptivePlayback
from soda_runtime.errors import InternalError
from soda_runtime.philox import INITIAL_STREAM, latent_noise
from soda_runtime.policy import POLICY_NAME

from .bundles import (
    GOLDEN_V4,
    GOLDEN_V5_POLICY,
    GOLDEN_V5_SADA,
    GOLDEN_V5_SKIP,
    Json,
    copy_golden,
    drop,
    fix_hashes,
    golden_request,
    golden_results,
    put,
    relative,
    safetensors_bytes,
    split_safetensors,
)

ADAPTIVE = [GOLDEN_V5_POLICY, GOLDEN_V5_SADA]
PLAYS = {"": ("", "any", "mean", "sample"), "adaptive": ("", "any", "mean", "sample"), "frozen": ("",), "full": ("",)}
"""The votes that a request may have with each policy."""


@pytest.fixture(scope="module", params=ADAPTIVE, ids=lambda golden: golden.name)
def golden(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


@pytest.fixture(scope="module")
def bundle(golden: Path) -> Bundle:
    return Bundle.open(golden, threads=1)


def test_a_golden_policy_decides_as_the_reference_did(golden: Path, bundle: Bundle) -> None:
    session, expected = bundle.session(), golden_results(golden)
    latents = session.generate(**golden_request(golden))
    assert np.array_equal(session.decisions, expected["decisions"])
    assert relative(latents, expected["latents"]) < 1e-3


def test_what_a_sample_does_does_not_depend_on_its_batch(golden: Path, bundle: Bundle) -> None:
    session, request = bundle.session(), golden_request(golden)
    together = session.generate(**request)
    decisions = session.decisions
    for i, label in enumerate(request["labels"]):
        noise = _noise_of(bundle, request["seed"], 2, i)
        alone = session.generate([label], noise=noise)
        assert np.array_equal(session.decisions[:, 0], decisions[:, i])
        assert np.array_equal(alone[0], together[i])


@pytest.mark.parametrize("vote", ["any", "mean"])
def test_samples_that_vote_take_the_same_steps(bundle: Bundle, vote: Any) -> None:
    session = bundle.session()
    session.generate([1, 2, 3], seed=3, vote=vote)
    decisions = session.decisions
    assert decisions.shape == (bundle.manifest.sampler.steps, 3)
    assert (decisions == decisions[:, :1]).all()


def test_given_decisions_are_played(golden: Path, bundle: Bundle) -> None:
    session, request = bundle.session(), golden_request(golden)
    found = session.generate(**request)
    again = session.generate(**request, decisions=session.decisions)
    assert np.array_equal(found, again)
    wanted = np.zeros(bundle.manifest.sampler.steps, int)
    wanted[[3, 5, 6]] = 1
    session.generate(**request, decisions=wanted)
    assert np.array_equal(session.decisions, np.stack([wanted] * 2, axis=1))


def test_decisions_that_compute_everything_are_the_full_run(bundle: Bundle) -> None:
    session, steps = bundle.session(), bundle.manifest.sampler.steps
    full = session.generate([4], seed=1, policy="full")
    assert np.array_equal(session.generate([4], seed=1, accelerated=False), full)
    computed = session.generate([4], seed=1, decisions=np.zeros(steps, int))
    assert relative(computed, full) < 1e-6  # rows of another table, of the same numbers
    assert relative(session.generate([4], seed=1, policy="frozen"), full) > 1e-4


def mixed_requests(steps: int) -> list[dict[str, Any]]:
    """Every policy with the votes that it may have, in batches of 1 to 3, and runs of given decisions."""
    requests: list[dict[str, Any]] = []
    for policy, votes in PLAYS.items():
        for vote in votes:
            for size in (1, 2, 3):
                number = len(requests)
                labels = [(number + i) % 10 for i in range(size)]
                requests.append({"labels": labels, "seed": number, "policy": policy, "vote": vote})
    columns = np.stack([np.arange(steps) % 4 > 1, np.arange(steps) % 3 == 2], axis=1).astype(np.int64)
    requests += [{"labels": [1, 2], "seed": 3, "decisions": columns}]
    requests += [{"labels": [4] * size, "seed": 4, "decisions": columns[:, 0], "vote": "any"} for size in (1, 3)]
    return requests


@pytest.mark.parametrize("requests", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_requests_of_every_kind_leave_nothing_to_the_next(bundle: Bundle, requests: int) -> None:
    """One session's requests, in any order, against those of sessions that had no other."""
    kinds, expected = mixed_requests(bundle.manifest.sampler.steps), []
    for request in kinds:
        with bundle.session() as fresh:
            expected.append((fresh.generate(**request), _decisions(fresh)))
    session = bundle.session()
    for number in np.random.default_rng(1).integers(0, len(kinds), requests).tolist():
        latents, decisions = expected[number]
        assert np.array_equal(session.generate(**kinds[number]), latents), kinds[number]
        assert _decisions(session) == decisions, kinds[number]


def test_samples_whose_buffers_cannot_be_had_leave_the_session_usable(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = bundle.session()
    expected = session.generate([1, 2], seed=1, vote="any")
    made: list[AdaptivePlayback] = []

    def make(*arguments: Any) -> AdaptivePlayback:
        if made:
            raise EngineError("no memory for the second one")
        made.append(AdaptivePlayback(*arguments))
        return made[0]

    with monkeypatch.context() as patch:
        patch.setattr("soda_runtime.players.AdaptivePlayback", make)
        with pytest.raises(EngineError, match="no memory for the second one"):
            session.generate([1, 2], seed=1)
    assert np.array_equal(session.generate([1, 2], seed=1, vote="any"), expected)


def test_steps_are_taken_one_by_one_and_decisions_read_between_them(golden: Path, bundle: Bundle) -> None:
    session, request = bundle.session(), golden_request(golden)
    whole = session.generate(**request)
    decisions = session.decisions
    session.start(**request)
    for step in range(bundle.manifest.sampler.steps):
        assert session.decisions.shape == (step, 2)
        session.step(step)
    assert np.array_equal(session.decisions, decisions)
    assert np.array_equal(session.latents(), whole)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another policy": ({"policy": "fast"}, "policy 'fast': give one of"),
    "another vote": ({"vote": "two"}, "vote 'two': give one of"),
    "unaccelerated and adaptive": ({"policy": "adaptive", "accelerated": False}, "accelerated=False computes"),
    "unaccelerated and frozen": ({"policy": "frozen", "accelerated": False}, "accelerated=False computes"),
    "a vote of a schedule": ({"policy": "frozen", "vote": "any"}, "vote is for policy='adaptive'"),
    "decisions of a full run": ({"policy": "full", "decisions": [0] * 12}, "decisions is for policy='adaptive'"),
    "decisions of another length": ({"decisions": [0, 1]}, "expected whole numbers"),
    "decisions for other samples": ({"decisions": np.zeros((12, 3), int)}, "expected whole numbers"),
    "decisions that are no numbers": ({"decisions": ["a"] * 12}, "expected whole numbers"),
    "fractions": ({"decisions": [0.5] * 12}, "expected whole numbers"),
    "an action that is not there": ({"decisions": [0, 7, *[0] * 10]}, "an action is outside 0 .. 1"),
    "a negative action": ({"decisions": [0, -1, *[0] * 10]}, "an action is outside 0 .. 1"),
    "no first step": ({"decisions": [1] + [0] * 11}, "step 0 computes everything"),
    "too many in a row": ({"decisions": [0] + [1] * 11}, "skip 11 steps in a row; this policy has 6"),
    "differing decisions of a vote": (
        {"decisions": np.array([[0, 0], [0, 1], *[[0, 0]] * 10]), "vote": "any"}, "decisions differ between samples"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_the_policy_does_not_take_is_refused_and_changes_nothing(case: str) -> None:
    arguments, message = REFUSED[case]
    session = Bundle.open(GOLDEN_V5_POLICY, threads=1).session()
    expected = session.generate([1, 2], seed=1)
    with pytest.raises(RequestError, match=message) as error:
        session.start([1, 2], seed=1, **arguments)
    assert str(error.value).isprintable()
    assert np.array_equal(session.latents(), expected)


def test_a_bundle_without_a_policy_says_so() -> None:
    session = Bundle.open(GOLDEN_V5_SKIP, threads=1).session()
    with pytest.raises(RequestError, match="this bundle has no policy; build it with --policy"):
        session.generate([1], policy="adaptive")
    with pytest.raises(RequestError, match="vote is for policy='adaptive'; this request plays 'frozen'"):
        session.generate([1], vote="any")
    session.generate([1])
    with pytest.raises(RequestError, match="this request plays 'frozen'"):
        _ = session.decisions


def test_a_request_from_latents_follows_the_schedule(bundle: Bundle) -> None:
    session = bundle.session()
    latents = np.zeros((1, *bundle.manifest.model.latent_shape), np.float32)
    start: dict[str, Any] = {"start_latents": latents, "start_step": 4}
    played = session.generate([1], **start)
    assert np.array_equal(played, session.generate([1], **start, policy="frozen"))
    with pytest.raises(RequestError, match="needs the first steps"):
        session.generate([1], **start, policy="adaptive")


def test_the_checking_backend_plays_a_policy_and_catches_signals_of_other_states(golden: Path) -> None:
    """Its signals are scripted: a step after an odd one may be skipped, one after an even one may not."""
    session = Bundle.open(golden, backend="null").session()
    session.generate([1, 2], seed=1)
    policy = session.bundle.policy
    assert policy is not None
    tested = [i for i, rule in enumerate(policy.policy.rules) if rule.action and not rule.always]
    for i in tested[2:-1]:
        computed = session.decisions[i, 0] == 0
        if computed or not policy.policy.held[0]:
            assert (session.decisions[i + 1, 0] != 0) == bool(i % 2), i
    playback = session.playback
    assert isinstance(playback, AdaptivePlayback)
    with pytest.raises(InternalError, match="signals: the states were written by"):
        playback._listen(len(playback.steps) % 2)()


Tables = dict[str, tuple[str, list[int], bytes]]
"""Name -> dtype, shape and content."""


def _pack(path: Path, tables: Tables) -> None:
    packed, body = {}, b""
    for key, (dtype, shape, data) in tables.items():
        packed[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    path.write_bytes(safetensors_bytes(packed, body))


def _tables(path: Path) -> Tables:
    header, content = split_safetensors(path)
    return {name: (e["dtype"], e["shape"], content[slice(*e["data_offsets"])]) for name, e in header.items()}


LIES: dict[str, Callable[[Json], object]] = {
    "another format": put("format", value="soda-polity"),
    "a later version": put("version", value=2),
    "no signals": put("held", value=[]),
    "five signals": put("held", value=[True] * 5),
    "signals held by numbers": put("held", value=[1, 1]),
    "a negative power": put("power", value=-1),
    "a large power": put("power", value=5),
    "no run": put("max_run", value=0),
    "a run of 2**62": put("max_run", value=1 << 62),
    "no gap": put("gap", value=0),
    "a gap of 2**62": put("gap", value=1 << 62),
    "one action": lambda policy: policy["actions"].pop(),
    "nine actions": lambda policy: policy["actions"].extend([policy["actions"][1]] * 7),
    "an action twice": lambda policy: policy["actions"].append(policy["actions"][1]),
    "a name with a slash": put("actions", 1, "name", value="../skip"),
    "a name with a line break": put("name", value="mis\nfit"),
    "a table that is a table of signals": put("actions", 1, "signals", value="full"),
    "a program that is not there": put("actions", 1, "program", value=99),
    "a negative program": put("actions", 1, "program", value=-1),
    "a first action that is not the baseline": put("actions", 0, "program", value=0),
    "a program of the schedule, with a cache": put("actions", 1, "program", value=0),
    "a rule short": lambda policy: policy["rules"].pop(),
    "a rule of no action": put("rules", 3, "action", value=2),
    "a rule of a negative action": put("rules", 3, "action", value=-1),
    "a threshold that is text": put("rules", 3, "threshold", value="1"),
    "a threshold beyond float32": put("rules", 3, "threshold", value=1e39),
    "an unknown key": put("threshold", value=1.0),
    "a missing key": drop("root"),
    "signals in a file that is not listed": put("signals", value="other.onnx"),
    "signals outside": put("signals", value="../signals.onnx"),
    "signals of another use": put("signals", value="program-00.onnx"),
    "tables of another use": put("tables", value="tables.safetensors"),
    "itself for tables": put("tables", value=POLICY_NAME),
    "a table that is not there": put("actions", 1, "table", value="other"),
    "more signals than the tables have": put("held", value=[True, True, True]),
    "a longer run than the tables have": put("max_run", value=7),
}
OF_TABLES = ("a table that is not there", "more signals than the tables have", "a longer run than the tables have")


@pytest.mark.parametrize("case", LIES)
def test_a_policy_that_lies_is_refused(case: str, tmp_path: Path, refuses: Callable[[Path, str], None]) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_POLICY)
    policy = json.loads((folder / POLICY_NAME).read_text())
    LIES[case](policy)
    (folder / POLICY_NAME).write_text(json.dumps(policy))
    fix_hashes(folder)
    refuses(folder, "policy.safetensors" if case in OF_TABLES else POLICY_NAME)


def _full(change: Callable[[str, list[int], bytes], tuple[str, list[int], bytes]]) -> Callable[[Tables], object]:
    return lambda tables: tables.update(full=change(*tables["full"]))


BAD_TABLES: dict[str, Callable[[Tables], object]] = {
    "one too many": lambda tables: tables.update(other=tables["full"]),
    "one missing": lambda tables: tables.pop("full"),
    "float64": _full(lambda _, shape, data: ("F64", [12, 1, shape[2]], bytes(8 * 12 * shape[2]))),
    "a step short": _full(lambda _, shape, data: ("F32", [11, *shape[1:]], data[: len(data) // 12 * 11])),
    "two variants": _full(lambda _, shape, data: ("F32", [12, 2, shape[2]], bytes(4 * 24 * shape[2]))),
    "two axes": _full(lambda _, shape, data: ("F32", [12, shape[1] * shape[2]], data)),
    "a NaN": _full(lambda dtype, shape, data: (dtype, shape, np.float32("nan").tobytes() + data[4:])),
    "1e20": _full(lambda dtype, shape, data: (dtype, shape, np.float32(1e20).tobytes() + data[4:])),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_tables_of_a_policy_that_do_not_fit_are_refused(
    case: str, tmp_path: Path, refuses: Callable[[Path, str], None]
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_POLICY)
    path = folder / "policy.safetensors"
    tables = _tables(path)
    BAD_TABLES[case](tables)
    _pack(path, tables)
    fix_hashes(folder)
    refuses(folder, "policy.safetensors")


@pytest.mark.parametrize("name", [POLICY_NAME, "policy.safetensors", "signals.onnx"])
def test_a_changed_file_of_a_policy_is_refused(
    name: str, tmp_path: Path, refuses: Callable[[Path, str], None]
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_POLICY)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    refuses(folder, name)


def test_to_a_bundle_of_an_older_version_its_file_is_one_like_any_other(v4_folder: Path) -> None:
    (v4_folder / POLICY_NAME).write_bytes((GOLDEN_V5_POLICY / POLICY_NAME).read_bytes())
    manifest = json.loads((v4_folder / "manifest.json").read_text())
    manifest["files"][POLICY_NAME] = {"bytes": 0, "sha256": ""}
    (v4_folder / "manifest.json").write_text(json.dumps(manifest))
    fix_hashes(v4_folder)
    session = Bundle.open(v4_folder, threads=1).session()
    session.generate(**golden_request(GOLDEN_V4))
    assert session.playback.play == "frozen"


def test_signals_of_another_shape_are_refused_when_they_are_opened(tmp_path: Path) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_POLICY)
    (folder / "signals.onnx").write_bytes((GOLDEN_V5_SADA / "signals.onnx").read_bytes())
    fix_hashes(folder)
    with pytest.raises(EngineError, match=r"signals\.onnx: input 'state'"):
        Bundle.open(folder, threads=1).session().generate([1])


def _decisions(session: Session) -> list[list[int]] | None:
    return session.decisions.tolist() if isinstance(session.playback, AdaptivePlayback) else None


def _noise_of(bundle: Bundle, seed: int, samples: int, sample: int) -> Any:
    initial = latent_noise(seed, INITIAL_STREAM, samples, bundle.manifest.model.latent_shape)
    return Noise(initial[sample : sample + 1])
