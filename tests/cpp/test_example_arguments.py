"""Wrong arguments to the C and C++ examples give one line and end with 2."""

from __future__ import annotations

import subprocess

import pytest

from tests.runtime.bundles import GOLDEN_V3, GOLDEN_V3_TEXT

from .library import BUILD

WRONG: dict[str, tuple[list[str], str]] = {
    "generate_c without a bundle": ([], "usage: "),
    "generate_c with a folder that is no bundle": (["/nowhere", "o"], "no such bundle folder"),
    "generate_c with a word for a label": (["BUNDLE", "o", "x"], "'x' is not a whole number"),
    "generate_c with a label beyond the last": (["BUNDLE", "o", "10", "1", "null"], "outside 0 .. 9"),
    "generate_c with a word for a seed": (["BUNDLE", "o", "1", "x"], "'x' is not a whole number"),
    "generate_c with an unknown backend": (["BUNDLE", "o", "1", "1", "tpu"], "backend 'tpu'"),
    "generate_c without its embeddings": (["TEXT", "o", "/nowhere", "1", "null"], "/nowhere: missing"),
    "soda-generate without a bundle": ([], "usage: "),
    "soda-generate with a word among the labels": (["BUNDLE", "o", "1,x"], "'x' is not a whole number"),
    "soda-generate with a word for a seed": (["BUNDLE", "o", "1", "x"], "'x' is not a whole number"),
    "soda-latency without a bundle": ([], "usage: "),
    "soda-latency of no samples": (["BUNDLE", "0"], "'0' is not a whole number of at least 1"),
    "soda-latency of no rounds": (["BUNDLE", "1", "0"], "'0' is not a whole number of at least 1"),
    "soda-latency with a word for the threads": (["BUNDLE", "1", "1", "null", "x"], "'x' is not a whole number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_to_an_example_gives_one_line(case: str) -> None:
    program = BUILD / "bin" / case.partition(" ")[0]
    if not program.exists():
        pytest.skip(f"{program.name} has not been built; `make cpp` says why")
    arguments, reason = WRONG[case]
    bundles = {"BUNDLE": str(GOLDEN_V3), "TEXT": str(GOLDEN_V3_TEXT)}
    done = subprocess.run([program, *(bundles.get(each, each) for each in arguments)], capture_output=True, text=True)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
