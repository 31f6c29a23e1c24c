"""build() of Python takes the options of `soda-export build`, makes the same bundle, and opens it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from soda_export import build
from soda_export.api import _GROUPS
from soda_export.errors import SodaError
from tests.tiny_models import save_tiny_model

QUICK = {"steps": 8, "samples": 4, "budget": 3, "planner": "soda"}


def test_the_package_and_its_build_are_imported_without_torch() -> None:
    script = (
        "import sys, soda_export; print('build' in dir(soda_export), 'msgspec' in sys.modules)\n"
        "from soda_export import build; print(build.__name__, 'torch' in sys.modules)\n"
        "import soda_export.workbench.pipeline; print(soda_export.build is build)\n"
        "try:\n    from soda_export import bild\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    quick, named, same, refused = done.stdout.splitlines()
    assert (quick, named, same) == ("True False", "build False", "True")
    assert refused.startswith("cannot import name 'bild'")


def test_it_makes_what_the_command_makes(
    soda, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("function", "command"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "function")
    seen: list[tuple[object, ...]] = []
    with build(tiny_model, **QUICK, out="mine", without="decoder", progress=lambda *done: seen.append(done)) as made:
        latents = made.session().generate(labels=[1], seed=0)
        assert made.manifest.backend == "ort"
    assert seen
    monkeypatch.chdir(tmp_path / "command")
    words = [word for name, value in QUICK.items() for word in (f"--{name}", str(value))]
    status, _, _ = soda("build", "--model", str(tiny_model), *words, "--out", "mine", "--without", "decoder")
    assert status == 0
    manifests = [tmp_path / name / "mine/manifest.json" for name in ("function", "command")]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    assert np.isfinite(latents).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bugdet": 3}, "build: there is no option bugdet; did you mean budget?"),
        ({"zzzzzz": 3}, "build: there is no option zzzzzz; `soda-export build --help` lists them"),
        ({"budget": "3"}, "build: budget='3': Expected `int`, got `str`"),
        ({"planner": "sodda", "budget": 3}, "build: planner='sodda': Invalid enum value 'sodda'"),
        ({"without": ["decodor"], "budget": 3}, r"build: without=\['decodor'\]: Invalid enum value 'decodor'"),
        ({"out": 3, "budget": 3}, "build: out=3: Expected `Path`, got `int`"),
        ({"steps": 8, "plan": "nowhere.json"}, "nowhere.json"),
        ({"steps": 8}, "--budget is missing"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_in_one_line(
    options: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = save_tiny_model(tmp_path / "tiny")
    with pytest.raises(SodaError, match=message) as refused:
        build(model, **options)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_no_two_groups_have_an_option_of_the_same_name() -> None:
    names = Counter(field.name for kind in _GROUPS.values() for field in dataclasses.fields(kind))
    assert [name for name, count in names.items() if count > 1] == []
