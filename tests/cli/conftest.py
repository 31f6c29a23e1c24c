"""The command line, run in this process and in an empty folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soda_export.cli.app import main
from soda_export.models.describe import describe_sites
from soda_export.models.spec import ModelSpec

Soda = Callable[..., tuple[int, str, str]]
"""words -> exit code, stdout, stderr"""
_DESCRIBED: dict[ModelSpec, ModelSpec] = {}


@pytest.fixture
def soda(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Soda:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("soda_export.models.load.describe_sites", _describe_once)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["soda-export", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def _describe_once(fake: Any, family: Any, spec: ModelSpec, constants: Any) -> ModelSpec:
    """The sites of a model that hundreds of calls are about; its spec says what it was made from."""
    if spec not in _DESCRIBED:
        _DESCRIBED[spec] = describe_sites(fake, family, spec, constants)
    return _DESCRIBED[spec]
