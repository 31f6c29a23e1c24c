"""Decisions in C++ are those of Python on any numbers, alone and in whole requests."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from soda_runtime import Bundle, RequestError
from soda_runtime.automaton import Automaton, Vote
from soda_runtime.policy import POLICY_NAME, Policy, policy_text
from soda_runtime.strict_json import decode

from tests.runtime.bundles import GOLDEN_V5_POLICY, GOLDEN_V5_SADA, copy_golden, fix_hashes
from tests.runtime.test_automaton import NUMBERS, POLICIES
from tests.runtime.test_automaton import STEPS as DRAWN_STEPS

from .fields import fields_of
from .library import BUILD, Library

VOTES = get_args(Vote)


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


@pytest.mark.parametrize("golden", [GOLDEN_V5_POLICY, GOLDEN_V5_SADA], ids=lambda folder: folder.name)
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
