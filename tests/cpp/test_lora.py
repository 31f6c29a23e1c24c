"""Both runtimes add and refuse the same LoRA files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, RequestError, Session
from soda_runtime.tensors import read_header

from tests.lora.files import kohya, peft, write
from tests.lora.test_file import REFUSED
from tests.runtime.bundles import GOLDEN_V5, golden_request

from .fields import fields_of
from .library import Library

BAR = 1e-5  # of the largest latent


def layers_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Every layer with a matrix [out, in, ...] in the weights file."""
    found = {}
    for name, entry in read_header(folder / "weights.safetensors").items():
        if len(entry.shape) > 1 and name.endswith((".weight", ".weight.T")):
            shape = entry.shape[::-1] if name.endswith(".T") else entry.shape
            found[name.removesuffix(".T").removesuffix(".weight")] = shape
    return found


def difference(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A LoRA of every layer of the golden bundle."""
    return write(tmp_path / "a.safetensors", kohya(layers_of(GOLDEN_V5), alpha=0.5))


def test_both_runtimes_draw_the_same_with_a_lora_at_every_strength(library: Library, backend: str, lora: Path) -> None:
    request = golden_request(GOLDEN_V5)
    python = Session.open(GOLDEN_V5, backend=backend, threads=1, lora=[(lora, 0.0)])
    cpp = library.open(GOLDEN_V5, backend=backend, threads=1, lora=[(lora, 0.0)])
    session, fields = cpp.session(), fields_of(request, python.bundle)
    drawn = []
    for strength in (0.0, 0.5, 1.0):
        python.set_lora_strengths([strength])
        cpp.set_lora_strengths([strength])
        drawn.append(python.generate(**request))
        assert difference(session.generate(**fields), drawn[-1]) <= BAR
    plain = library.open(GOLDEN_V5, backend=backend, threads=1).session().generate(**fields)
    cpp.set_lora_strengths([0.0])
    assert np.array_equal(session.generate(**fields), plain)
    assert difference(drawn[1], drawn[0]) > 100 * BAR


def test_several_files_add_up_in_both_runtimes(library: Library, tmp_path: Path) -> None:
    layers = layers_of(GOLDEN_V5)
    first = write(tmp_path / "first.safetensors", kohya(dict(list(layers.items())[::2]), alpha=0.5))
    settings = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 0.25, "transformer.use_rslora": True})}
    second = write(tmp_path / "second.safetensors", peft(layers, "transformer."), settings)
    request, given = golden_request(GOLDEN_V5), [(first, 0.7), (second, -0.5)]
    bundle = Bundle.open(GOLDEN_V5, threads=1, lora=given)
    cpp = library.open(GOLDEN_V5, threads=1, lora=given).session()
    found, expected = cpp.generate(**fields_of(request, bundle)), bundle.session().generate(**request)
    assert difference(found, expected) <= BAR


def test_a_request_in_progress_ends_with_what_it_began_with(library: Library, lora: Path) -> None:
    bundle = library.open(GOLDEN_V5, threads=1, lora=[(lora, 1.0)])
    one, other = bundle.session(), bundle.session()
    fields = fields_of(golden_request(GOLDEN_V5), Bundle.open(GOLDEN_V5, backend="null"))
    before = one.generate(**fields)
    other.start(**fields)
    other.step(0)
    bundle.set_lora_strengths([0.0])
    changed = one.generate(**fields)
    for index in range(1, other.info.steps):
        other.step(index)
    assert np.array_equal(other.latents(), before)
    assert not np.array_equal(changed, before)


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_no_plain_lora_are_refused_by_both(library: Library, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", REFUSED[name][0])
    with pytest.raises(RequestError) as ours:
        Bundle.open(GOLDEN_V5, backend="null", lora=[path])
    with pytest.raises(RequestError) as theirs:
        library.open(GOLDEN_V5, backend="null", lora=[(path, 1.0)])
    assert str(theirs.value).startswith(f"lora {path}: ")
    assert REFUSED[name][1] in str(theirs.value)
    assert REFUSED[name][1] in str(ours.value)


def test_what_does_not_fit_is_refused_by_both_in_the_same_words(library: Library, tmp_path: Path) -> None:
    layers = layers_of(GOLDEN_V5)
    name, shape = next(iter(layers.items()))
    cases: list[dict[str, Any]] = [
        {**kohya(layers), **kohya({f"other.{i}": (4, 4) for i in range(5)})}, kohya({name: (*shape, 3)}),
        kohya({name: (shape[0] + 1, shape[1])}), kohya({"encoder.layers.0": (4, 4)}, "lora_te3_"),
        {key: value * 1e30 for key, value in peft({name: shape}).items()},
        kohya({**layers, "time_embedding.linear_1": (4, 4)}),
    ]  # fmt: skip
    for tensors in cases:
        path, said = write(tmp_path / "a.safetensors", tensors), []
        for opened in (lambda p: Bundle.open(GOLDEN_V5, backend="null", lora=[p]),
                       lambda p: library.open(GOLDEN_V5, backend="null", lora=[(p, 1.0)])):  # fmt: skip
            with pytest.raises(RequestError) as caught:
                opened(path)
            said.append(str(caught.value))
        assert said[0] == said[1]


def test_arguments_are_judged(library: Library, lora: Path) -> None:
    for given in ([(lora.with_name("none"), 1.0)], [(lora, float("nan"))]):
        with pytest.raises(RequestError, match="lora"):
            library.open(GOLDEN_V5, backend="null", lora=given)
    plain, opened = (library.open(GOLDEN_V5, backend="null", lora=lora_) for lora_ in ([], [(lora, 1.0)]))
    for bundle, strengths in ((plain, [1.0]), (opened, []), (opened, [1.0, 1.0]), (opened, [float("inf")])):
        with pytest.raises(RequestError):
            bundle.set_lora_strengths(strengths)
