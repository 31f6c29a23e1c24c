"""What a verb leaves where nothing disturbs it, and what of that must hold after a fault and after the next run.

After a fault: a bundle is whole or not there, and so is every other output. After the next run: exit code 0, the bytes
of an undisturbed run, and no file that an undisturbed run does not leave.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from soda_runtime.checks import verify_hashes

from .cases import Case, words_of
from .verbs import Done, Verbs

_SPACES = {"XDG_CACHE_HOME": "cache", "TMPDIR": "tmp"}  # watched, too


@dataclass(frozen=True)
class Expected:
    """An undisturbed run: how it ended, its files, and the content of those that must be equal."""

    done: Done
    files: frozenset[str]
    equal: dict[str, bytes]


class Places:
    """Folders that cases run in."""

    def __init__(self, verbs: Verbs, model: Path, stock: Path, scratch: Path) -> None:
        """stock: as of make_stock. scratch: an empty folder, for places that are made and removed."""
        self._verbs, self._model, self._stock, self.scratch = verbs, model, stock, scratch
        self._expected: dict[str, Expected] = {}

    def prepare(self, case: Case, place: Path) -> Path:
        """Make the folder, with what the case needs in it."""
        place.mkdir(exist_ok=True)
        (place / "tmp").mkdir()
        case.prepare(self._stock, place)
        return place

    def run(self, case: Case, place: Path, **moment: float) -> Done:
        """Run the case's verb there; moment: as of Verbs.run."""
        spaces = {name: str(place / folder) for name, folder in _SPACES.items()}
        return self._verbs.run(words_of(case, self._model, self._stock), place, **moment, **spaces)  # type: ignore[arg-type]

    def expected(self, case: Case) -> Expected:
        """An undisturbed run, done once."""
        if case.name not in self._expected:
            place = self.prepare(case, self.scratch / "undisturbed")
            done = self.run(case, place)
            assert done.code == 0, done.error
            equal = {path.relative_to(place).as_posix(): path.read_bytes() for path in _matching(case, place)}
            self._expected[case.name] = Expected(done, _files(place), equal)
            shutil.rmtree(place)
        return self._expected[case.name]

    def check_left(self, case: Case, place: Path, where: str) -> int:
        """How many outputs are there after a fault. AssertionError where one is not whole; where: said then."""
        if case.bundle:
            bundle = place / case.bundle
            if bundle.exists():
                verify_hashes(bundle)
            return int(bundle.exists())
        equal, there = self.expected(case).equal, 0
        for path in _matching(case, place):
            name = path.relative_to(place).as_posix()
            is_ours = name in equal
            assert is_ours or path.name.startswith("."), f"{where}: {name} is no output"
            assert not is_ours or path.read_bytes() == equal[name], f"{where}: {name} is half-written"
            there += is_ours
        return there

    def check_next_run(self, case: Case, place: Path, where: str) -> None:
        """Run the verb again. AssertionError where it differs from the undisturbed run; where: said then."""
        expected, again = self.expected(case), self.run(case, place)
        assert again.code == 0, f"{where}, run again: {again.error}"
        left = _files(place) ^ expected.files
        assert not (case.equal and left), f"{where}, run again: files differ by {sorted(left)}"
        for name, content in expected.equal.items():
            assert (place / name).read_bytes() == content, f"{where}, run again: {name} differs"
        if case.bundle:
            verify_hashes(place / case.bundle)


def _matching(case: Case, place: Path) -> Iterator[Path]:
    for pattern in case.equal:
        yield from (path for path in place.glob(pattern) if path.is_file())


def _files(place: Path) -> frozenset[str]:
    """Every file and every empty folder, but for what the system's temporary folder has."""
    found = (path for path in place.rglob("*") if path.is_file() or not any(path.iterdir()))
    return frozenset(name for path in found if not (name := path.relative_to(place).as_posix()).startswith("tmp"))
