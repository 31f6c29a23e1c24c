"""What help pages and verbs print can be typed: every example is understood, and names models that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from soda_runtime.checks import open_manifest

from soda_export.cli.app import _VERBS, make_app
from soda_export.cli.build import _example
from soda_export.models.load import load_model
from soda_export.models.origin import builtin_models
from soda_export.models.published import published_models
from soda_export.plan.plan import plan_text
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Built
from tests.runtime.bundles import GOLDEN_V5_TEXT


def examples(help_page: str) -> list[str]:
    """Its lines under Examples; those that the terminal wrapped are put together again."""
    part = help_page.partition("Examples:")[2].partition("╭")[0]
    blocks = re.split(r"\n\s*\n", part)
    return [" ".join(block.split()) for block in blocks if block.split()[:1] == ["soda-export"]]


@pytest.mark.parametrize("verb", _VERBS)
def test_every_example_of_a_help_page_is_understood(soda, verb: str) -> None:
    _, page, _ = soda(verb, "--help")
    found = examples(page)
    assert found
    for line in found:
        _, own, *words = shlex.split(line)
        assert own == verb
        make_app(verb).parse_args([verb, *words], exit_on_error=False, print_error=False)
        if "--model" in words:
            model = words[words.index("--model") + 1]
            assert model in (*builtin_models(), *published_models()) or "/" in model, line


def test_examples_on_a_bundle_and_its_plan_run(
    soda, tiny_model: Path, tiny_bundle: Built, tmp_path: Path
) -> None:
    """With the toy's bundle, and a plan of whole steps for it, in the places of those that the pages name."""
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines/digits-b17-ort").symlink_to(tiny_bundle.out)
    schedule = Schedule.at_anchors(load_model(str(tiny_model)).spec, 8, (0, 4))
    (tmp_path / "digits-b17.plan.json").write_bytes(plan_text(replace(tiny_bundle.plan, schedule=schedule)))
    np.save(tmp_path / "seven.npy", np.zeros((1, *open_manifest(tiny_bundle.out).model.latent_shape), np.float32))
    own = re.compile(r"engines/digits-b17-ort(?!.*--engines)|digits-b17\.plan\.json|doctor$")
    played = set()
    for verb in ("inspect", "run", "verify", "export", "doctor", "bench"):
        _, page, _ = soda(verb, "--help")
        for line in filter(own.search, examples(page)):
            if verb != "bench" or "--ops" in line:  # the others of bench's are longer
                code, _, err = soda(*shlex.split(line)[1:])
                assert code == 0, (line, err)
                played.add(verb)
    assert len(played) == 6


def test_what_a_build_says_to_try_suits_its_bundle(soda) -> None:
    manifest = open_manifest(GOLDEN_V5_TEXT)
    code, _, err = soda("run", GOLDEN_V5_TEXT, *shlex.split(_example(manifest, ["it's a red circle", "another"])))
    assert code == 0, err
    assert _example(replace(manifest, finish=()), []).endswith("--out out.npy")
    embeds = _example(replace(manifest, tokenizers=()), [])
    assert embeds == "--embeds embeds.safetensors --out out.png"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--precision", "int8-weights"), "--precision int8-weights: ort would unpack it"),
        (("--precision", "bf16"), "ONNX Runtime's CPU provider cannot run it; add --backend openvino"),
    ],
)
def test_a_precision_that_cannot_run_is_refused_before_a_model_is_loaded(soda, words, message: str) -> None:
    code, out, err = soda("build", "--model", "nowhere/at-all", "--budget", 17, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_terminal_without_block_characters_gets_ascii_and_prompts_are_decoded(
    tiny_bundle: Built, tmp_path: Path
) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": "/usr/bin:/bin"}
    ascii_only["PYTHONPATH"] = ":".join(sys.path)

    def call(*words: object) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "soda_export", *map(str, words)]
        return subprocess.run(command, env=ascii_only, cwd=tmp_path, capture_output=True, check=False)

    shown = call("inspect", tiny_bundle.out)
    assert shown.returncode == 0, shown.stderr
    assert b"# computed" in shown.stdout
    refused = call("run", tiny_bundle.out, "--prompt", b"caf\xff".decode("utf-8", "surrogateescape"))
    assert refused.returncode == 2
    assert b"set LC_ALL=C.UTF-8" in refused.stderr
    decoded = call("run", tiny_bundle.out, "--prompt", "café")
    assert b"LC_ALL" not in decoded.stderr
    assert b"Traceback" not in decoded.stderr
