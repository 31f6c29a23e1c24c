"""What a request chooses among: the bundle's sizes, and LoRA files by their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from soda_runtime import RequestError, Session

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from soda_runtime.serve.loras import find_loras
from soda_runtime.serve.options import ServeOptions

from ..lora.files import peft, write
from ..runtime.bundles import GOLDEN_V5_SIZES
from .clients import Running, running

LAYERS = {"transformer_blocks.0.attn1.to_q": (48, 48), "transformer_blocks.0.ff.net.2": (48, 192)}


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of two files, the second in a folder of its own."""
    folder = tmp_path_factory.mktemp("loras")
    (folder / "more").mkdir()
    files = (folder / "style.safetensors", folder / "more/sketch.safetensors")
    for number, (path, layer) in enumerate(zip(files, LAYERS, strict=True), 3):
        write(path, {name: number * value for name, value in peft({layer: LAYERS[layer]}).items()})
    return files


@pytest.fixture(scope="module")
def server(loras: tuple[Path, Path]) -> Iterator[Running]:
    style, sketch = loras
    with running(GOLDEN_V5_SIZES, batch=4, lora=(f"{style}:0.5",), lora_folder=str(sketch.parent)) as started:
        yield started


def test_answers_are_those_of_a_session_with_that_size_and_lora(server: Running, loras: tuple[Path, Path]) -> None:
    session = Session.open(GOLDEN_V5_SIZES, threads=1, lora=[(file, 0.0) for file in loras])

    def expected(seed: int, size: tuple[int, int], strengths: tuple[float, float]) -> NDArray[np.uint8]:
        session.set_lora_strengths(strengths)
        session.generate(prompt="red", seed=seed, size=size)
        return np.clip(np.round(session.images() * 255), 0, 255).astype(np.uint8)

    cases: list[tuple[dict[str, Any], tuple[int, int], tuple[float, float]]] = [
        ({}, (16, 16), (0.5, 0.0)), ({"size": "24x8"}, (8, 24), (0.5, 0.0)), ({"lora": {}}, (16, 16), (0.0, 0.0)),
        ({"size": "16x16", "lora": {"sketch": 0.8}}, (16, 16), (0.0, 0.8)),
        ({"size": "24x8", "lora": {"sketch": 1, "style": -1}}, (8, 24), (-1.0, 1.0)),
    ]  # fmt: skip
    answers = server.post_all([{"prompt": "red", "seed": seed, **fields} for seed, (fields, *_) in enumerate(cases)])
    for seed, (answer, (_, size, strengths)) in enumerate(zip(answers, cases, strict=True)):
        assert np.array_equal(answer.pictures, expected(seed, size, strengths))
    assert not np.array_equal(expected(0, (16, 16), (0.0, 0.0)), expected(0, (16, 16), (0.0, 0.8)))


def test_what_there_is_to_choose_is_told(server: Running) -> None:
    told = server.get("/v1/models").body["data"][0]["soda"]
    assert told["sizes"] == ["16x16", "24x8"]
    assert told["loras"] == {"style": 0.5, "sketch": 0.0}
    refused = server.post(prompt="red", size="8x24")
    assert (refused.status, refused.error["param"]) == (400, "size")
    assert "16x16, 24x8" in refused.error["message"]
    refused = server.post(prompt="red", lora={"other": 1})
    assert (refused.status, refused.error["param"]) == (400, "lora")
    assert "style, sketch" in refused.error["message"]
    refused = server.post(prompt="red", lora={"style": 1e39})  # beyond float32
    assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")
    assert server.post(prompt="red").status == 200


def test_files_that_are_not_there_or_share_a_name_are_refused(loras: tuple[Path, Path], tmp_path: Path) -> None:
    style, sketch = loras
    for options, message in (
        (ServeOptions(lora_folder=str(tmp_path)), "no .safetensors file in it"),
        (ServeOptions(lora_folder=str(tmp_path / "nowhere")), "no such folder"),
        (ServeOptions(lora=(f"{style}:much",)), "write FILE or FILE:STRENGTH"),
        (ServeOptions(lora=(str(style), str(style))), "two files are called 'style'"),
    ):
        with pytest.raises(RequestError, match=message):
            find_loras(options)
    both = find_loras(ServeOptions(lora=(f"{sketch}:0.3",), lora_folder=str(sketch.parent)))
    assert [(lora.name, lora.strength) for lora in both] == [("sketch", 0.3)]
