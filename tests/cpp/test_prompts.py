"""Prompts of several text encoders: the ids that the caller's tokenizers make play in C++ as the prompts in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle
from soda_runtime.manifest import TokenIdsPort

from tests.export.test_prompt_bundles import build, open_bench, save_model

from .library import Library, has_backend


@pytest.mark.filterwarnings("ignore")
def test_ids_of_each_tokenizer_are_given_by_their_ports(library: Library, tmp_path: Path) -> None:
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    bench = open_bench(save_model(tmp_path / "sdxl", "sdxl"), tmp_path / "work")
    folder = build(bench, tmp_path / "bundle").out
    python, cpp = Bundle.open(folder, threads=1), library.open(folder, threads=1)
    words: dict[str, Any] = {"prompt": ["a red circle", "a photo"], "negative_prompt": "blue"}
    others: dict[str, Any] = {"prompt_2": ["the square", "a blue circle"], "negative_prompt_2": "the photo"}
    numbers = {port.port.decode(): port.tokenizer for port in cpp.port_structs(0) if not port.negative}
    ids: dict[str, Any] = {}
    for port in python.manifest.ports:
        if isinstance(port, TokenIdsPort):
            assert numbers[port.name] == port.tokenizer
            texts = words if port.tokenizer == 0 else {"prompt": others["prompt_2"], "negative_prompt": "the photo"}
            ids[port.name] = python.tokenize(port.tokenizer, texts["prompt"])[0]
            ids[f"-{port.name}"] = python.tokenize(port.tokenizer, [texts["negative_prompt"]])[0]
    found = cpp.session().generate(ports=ids, seed=5)
    session = python.session()
    assert np.array_equal(found, session.generate(**words, **others, seed=5))
    assert np.abs(found - session.generate(**words, seed=5)).max() > 1e-3
