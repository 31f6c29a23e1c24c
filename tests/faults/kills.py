"""Kill verbs with SIGKILL, at random moments and before random changes of the file system, and look at what they left.

After a kill: a bundle is whole or not there, and so is every other output. After the next run: exit code 0, the bytes
of an undisturbed run, and no file that an undisturbed run does not leave.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from soda_runtime.checks import verify_hashes

from .cases import CASES, Case, words_of
from .verbs import Done, Verbs

_SPACES = {"XDG_CACHE_HOME": "cache", "TMPDIR": "tmp"}  # watched, too


@dataclass(frozen=True)
class Expected:
    """An undisturbed run: how it ended, its files, and the content of those that must be equal."""

    done: Done
    files: frozenset[str]
    equal: dict[str, bytes]


@dataclass(frozen=True)
class Kill:
    """What a kill met. moment: `1.23 s`, or `change 17`. died: whether the verb was killed before its end. there:
    outputs that were there, whole."""

    case: str
    moment: str
    died: bool
    there: int


class Campaign:
    """Kills of every case over one toy model."""

    def __init__(self, verbs: Verbs, model: Path, stock: Path, scratch: Path, seed: int = 0) -> None:
        """stock: as of make_stock. scratch: an empty folder, for places that are made and removed."""
        self._verbs, self._model, self._stock, self._scratch = verbs, model, stock, scratch
        self._chance = random.Random(seed)
        self._expected: dict[str, Expected] = {}

    def kills(self, rounds: int) -> Iterator[Kill]:
        """Cases by their shares, in random order; every other one is killed by the clock. AssertionError says what was
        wrong, and where the place is that shows it."""
        cases = [case for case in CASES for _ in range(case.share)]
        order = [case for _ in range(rounds // len(cases) + 1) for case in self._chance.sample(cases, len(cases))]
        for number, case in enumerate(order[:rounds]):
            yield self.kill(case, number, by_clock=number % 2 == 0)

    def kill(self, case: Case, number: int, by_clock: bool) -> Kill:
        """One kill, what it left, and the run after it."""
        expected = self.expected(case)
        place = self._place(case, f"round{number}")
        if by_clock:
            seconds = self._chance.uniform(0.0, 1.1 * expected.done.seconds)
            done, moment = self._run(case, place, after_s=seconds), f"{seconds:.2f} s"
        else:
            change = self._chance.randint(1, expected.done.changes)
            done, moment = self._run(case, place, before_change=change), f"change {change}"
        where = f"{case.name}, killed at {moment}, in {place}"
        assert done.code in (0, -9), f"{where}: {done.error}"
        there = self._check_killed(case, place, expected, where)
        again = self._run(case, place)
        assert again.code == 0, f"{where}, run again: {again.error}"
        left = _files(place) ^ expected.files
        assert case.name == "build: best" or not left, f"{where}, run again: files differ by {sorted(left)}"
        for name, content in expected.equal.items():
            assert (place / name).read_bytes() == content, f"{where}, run again: {name} differs"
        if case.bundle:
            verify_hashes(place / case.bundle)
        shutil.rmtree(place)
        return Kill(case.name, moment, done.code == -9, there)

    def expected(self, case: Case) -> Expected:
        """An undisturbed run, done once."""
        if case.name not in self._expected:
            place = self._place(case, "undisturbed")
            done = self._run(case, place)
            assert done.code == 0, done.error
            equal = {path.relative_to(place).as_posix(): path.read_bytes() for path in _matching(case, place)}
            self._expected[case.name] = Expected(done, _files(place), equal)
            shutil.rmtree(place)
        return self._expected[case.name]

    def _check_killed(self, case: Case, place: Path, expected: Expected, where: str) -> int:
        """How many outputs are there; all of them are whole."""
        outputs = list(_matching(case, place))
        if case.bundle:
            bundle = place / case.bundle
            if bundle.exists():
                verify_hashes(bundle)
            return int(bundle.exists())
        for path in outputs:
            name = path.relative_to(place).as_posix()
            is_ours = name in expected.equal
            assert is_ours or path.name.startswith("."), f"{where}: {name} is no output"
            assert not is_ours or path.read_bytes() == expected.equal[name], f"{where}: {name} is half-written"
        return len(outputs)

    def _place(self, case: Case, name: str) -> Path:
        place = self._scratch / name
        place.mkdir()
        (place / "tmp").mkdir()
        case.prepare(self._stock, place)
        return place

    def _run(self, case: Case, place: Path, **moment: float) -> Done:
        spaces = {name: str(place / folder) for name, folder in _SPACES.items()}
        return self._verbs.run(words_of(case, self._model, self._stock), place, **moment, **spaces)  # type: ignore[arg-type]


def _matching(case: Case, place: Path) -> Iterator[Path]:
    for pattern in case.equal:
        yield from (path for path in place.glob(pattern) if path.is_file())


def _files(place: Path) -> frozenset[str]:
    """Every file and every empty folder, but for what the system's temporary folder has."""
    found = (path for path in place.rglob("*") if path.is_file() or not any(path.iterdir()))
    return frozenset(name for path in found if not (name := path.relative_to(place).as_posix()).startswith("tmp"))
