"""No misuse of the command line ends in a traceback, or changes anything: several hundred, by a table."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli import broken_files, misuses
from tests.cli.conftest import Soda


@pytest.fixture(scope="module")
def place(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("misuse")
    broken_files.make_place(folder, tiny_model)
    return folder


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """File -> size and time, of all that is no stage."""
    found = {}
    for root, _, files in os.walk(folder):
        for name in files:
            state = (Path(root) / name).lstat()
            found[str(Path(root, name).relative_to(folder))] = (state.st_size, state.st_mtime_ns)
    return {name: state for name, state in found.items() if not name.startswith("engines/")}


@pytest.mark.parametrize("verb", misuses.VERBS)
def test_a_misuse_is_one_line_and_exit_code_2(
    soda: Soda, place: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(place)
    before, number = listing(place), 0
    for words in misuses.misuses():
        if words[0] == verb:
            _check(soda, words)
            number += 1
    assert number >= misuses.VERBS[verb]
    assert listing(place) == before


@pytest.mark.parametrize("kind", misuses.BROKEN)
def test_a_broken_file_is_one_line_and_exit_code_2(
    soda: Soda, place: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Every place of a plan, a map, a manifest and the configurations of a model, changed to what makes no sense."""
    monkeypatch.chdir(place)
    names = sorted(path.name for path in place.glob(f"{kind}-*"))
    assert len(names) >= misuses.BROKEN[kind].files
    accepted = 0
    for name in names:
        for words in misuses.BROKEN[kind].calls:
            accepted += not _check(soda, tuple(word.format(name) for word in words), may_work=True)
    assert accepted <= misuses.BROKEN[kind].harmless * len(names)


def _check(soda: Soda, words: tuple[str, ...], may_work: bool = False) -> bool:
    """Whether the call was refused, as it should be."""
    try:
        code, out, err = soda(*words)
    except Exception as error:
        raise AssertionError(f"{words}: {type(error).__name__}: {error}") from error
    if code == 0 and (may_work or words in misuses.ACCEPTED):
        return False
    assert (code, out) == (2, ""), (words, out, err)
    told = [line for line in err.splitlines() if line.startswith("soda-export: ")]
    assert told == err.splitlines()[-1:], (words, err)
    assert len(told[0]) < 1000, words
    assert not any(ord(c) < 32 for c in told[0]), words
    assert not list(Path().glob(".*.tmp")), words
    return True


def test_there_are_more_than_700() -> None:
    everything = list(misuses.misuses())
    assert len(set(everything)) >= 700
    assert set(misuses.ACCEPTED) <= set(everything)
