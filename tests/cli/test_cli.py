"""The command line: what it prints, what it leaves, and how it says no."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from soda_export.plan.plan import plan_text
from soda_export.workbench.pipeline import Built
from tests.plan.test_anchors import PRIOR
from tests.runtime.bundles import GOLDEN_V5_CHUNKS

VERBS = (
    "build", "inspect", "run", "bench", "profile", "plan", "verify", "convert", "import", "export", "eval", "sweep",
    "doctor", "report",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(soda, verb: str) -> None:
    code, out, _ = soda(verb, "--help")
    assert code == 0
    assert "Examples" in out
    assert f"soda-export {verb}" in out
    assert "--json" in out


def test_the_whole_loop_from_the_command_line(soda, tiny_model: Path, tmp_path: Path) -> None:
    common = ("--model", tiny_model, "--steps", 8, "--samples", 4)
    code, out, err = soda("profile", *common, "--out", "tiny.map.safetensors", "--json")
    assert code == 0, err
    assert json.loads(out)["samples"] == 4
    code, out, err = soda(
        "plan", "--model", tiny_model, "--map", "tiny.map.safetensors", "--budget", 3, "--planner", "soda",
        "--out", "plan.json", "--json",
    )  # fmt: skip
    assert code == 0, err
    planned = json.loads(out)
    assert {"anchors", "flops_ratio", "programs"} <= planned.keys()
    assert len(planned["anchors"]) == 3
    code, out, err = soda("build", "--model", tiny_model, "--plan", "plan.json", "--json")
    assert code == 0, err
    built = json.loads(out)
    assert built["bundle"] == "engines/tiny-plan-ort"
    code, out, _ = soda("inspect", built["bundle"], "--json")
    inspected = json.loads(out)
    assert {"steps", "programs", "engines", "arena_bytes", "arena_lower_bound_bytes", "arena_naive_bytes"} <= set(
        inspected
    )
    assert inspected["steps"] == 8
    code, _, err = soda("run", built["bundle"], "--labels", "0,1,2,3", "--seed", 0, "--out", "out.png")
    assert code == 0, err
    assert (tmp_path / "out.png").stat().st_size > 100
    code, out, err = soda("bench", built["bundle"], "--rounds", 2, "--batch", 2, "--json")
    assert code == 0, err
    measured = json.loads(out)
    assert {
        "latency_s", "baseline_latency_s", "speedup", "flops_ratio", "realization", "dispatch_us_per_step",
    } <= measured.keys()  # fmt: skip
    assert measured["error"]["rmse"] > 0
    assert {"weights_once", "weights_resident", "arena", "activations"} <= measured["memory_bytes"].keys()
    assert soda("verify", built["bundle"])[0] == 0
    for target in (built["bundle"], "plan.json", "tiny.map.safetensors", f"{built['bundle']}/programs.json"):
        code, out, err = soda("inspect", target)
        assert code == 0, err
        assert out


def test_inspect_and_verify_say_how_a_video_is_made(soda) -> None:
    code, out, _ = soda("inspect", GOLDEN_V5_CHUNKS, "--json")
    said = json.loads(out)
    assert (code, said["chunks"]) == (0, 3)
    assert said["gives"].startswith("video, 9 frames of 12x8, 8 a second, in chunks of 4 (first 1), ")
    assert "7 files, 2 steps and 3 chunks of video are sound" in soda("verify", GOLDEN_V5_CHUNKS)[1]
    code, out, _ = soda("verify", GOLDEN_V5_CHUNKS, "--programs", "--json")
    assert [each["file"] for each in json.loads(out)["programs"]][-2:] == ["decoder-first.onnx", "decoder.onnx"]


def test_a_bare_prior_plans_without_a_model(soda) -> None:
    code, out, _ = soda("plan", "--prior", PRIOR, "--steps", 50, "--budget", 18, "--cost", "cem", "--json")
    assert code == 0
    assert json.loads(out)["anchors"][:5] == [0, 4, 8, 12, 16]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("build", "--model", "nope", "--budget", "3"), "--model nope"),
        (("build", "--model", "digits"), "--budget is missing"),
        (("build", "--model", "digits", "--budget", "300"), "6 to 50 anchors"),
        (("build", "--model", "digits", "--budget", "2"), "6 to 50 anchors"),
        (("build", "--model", "digits", "--budget", "x"), "--budget"),
        (("build", "--model", "digits", "--budget", "-5"), "6 to 50 anchors"),
        (("build", "--model", "digits", "--budget", "999999999999"), "6 to 50 anchors"),
        (("build", "--model", "digits", "--budget", "5", "--cost", "cem"), "6 to 6 anchors"),
        (("build", "--model", "digits", "--budget", "17", "--guidance", "nan"), "--guidance nan"),
        (("profile", "--model", "digits", "--eta", "2"), "--eta 2"),
        (("profile", "--model", "digits", "--profile-memory", "nan"), "--profile-memory nan"),
        (("plan", "--prior", PRIOR, "--budget", "0", "--cost", "cem"), "--budget 0"),
        (("plan", "--prior", PRIOR, "--budget", "18", "--steps", "0"), "--steps is 0"),
        (("plan", "--prior", PRIOR, "--budget", "18", "--map", "x"), "leave out --map"),
        (("build", "--model", "digits", "--budget", "17", "--backend", "magic"), "--backend magic"),
        (("build", "--model", "digits", "--bugdet", "17"), "--bugdet"),
        (("biuld",), "biuld"),
        (("plan", "--budget", "3"), "--model"),
        (("plan", "--prior", "missing.json", "--budget", "3"), "missing.json"),
        (("plan", "--model", "digits", "--map", "missing.safetensors", "--budget", "9"), "missing.safetensors"),
        (("inspect", "missing"), "missing"),
        (("run", "missing"), "missing"),
        (("bench", "missing"), "missing"),
        (("verify", "missing"), "missing"),
        (("profile", "--model", "digits", "--samples", "0"), "--samples 0"),
        (("profile", "--model", "digits", "--steps", "2000"), "--steps 2000"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(soda, words: tuple[str, ...], message: str) -> None:
    code, out, err = soda(*words)
    assert code == 2
    assert out == ""
    told = ("model digits:", "sampler:")
    assert [line for line in err.splitlines() if not line.startswith(told)] == err.splitlines()[-1:]
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--labels", "0,x"), "--labels 0,x"),
        (("--labels", "99"), "label 99"),
        (("--out", "x.gif"), "x.gif"),
        (("--out", "nowhere/x.png"), "nowhere"),
        (("--out", "."), "."),
        (("--seed", "-1"), "seed -1"),
        (("--device", "tpu"), "tpu"),
    ],
)
def test_wrong_run_arguments_are_named(soda, tiny_bundle: Built, words: tuple[str, ...], message: str) -> None:
    code, _, err = soda("run", tiny_bundle.out, *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_plan_of_another_step_count_is_refused(soda, tiny_model: Path, tiny_bundle: Built, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(plan_text(tiny_bundle.plan))
    code, _, err = soda("build", "--model", tiny_model, "--plan", "plan.json", "--steps", 20)
    assert code == 2
    assert "8 steps, not ddim with 20 steps" in err
    code, _, err = soda("build", "--model", "digits", "--plan", "plan.json")
    assert code == 2
    assert "not digits" in err
    code, _, err = soda("build", "--model", tiny_model, "--plan", "plan.json", "--budget", 3)
    assert code == 2
    assert "--plan is a finished plan" in err


def test_brackets_in_a_name_are_no_markup(soda, tiny_bundle: Built, tmp_path: Path) -> None:
    text = plan_text(tiny_bundle.plan).replace(b'"made_by": ""', b'"made_by": "[/x] by [hand]"')
    (tmp_path / "plan.json").write_bytes(text)
    code, out, err = soda("inspect", "plan.json")
    assert code == 0, err
    assert "[/x] by [hand]" in out


def test_a_place_that_cannot_be_written_is_one_line(soda, tmp_path: Path) -> None:
    (tmp_path / "engines").write_text("a file where the shelf should be")
    code, _, err = soda("build", "--model", "digits", "--budget", "17", "--samples", "1")
    assert code == 2
    assert "engines" in err
    assert "Traceback" not in err


def test_out_never_overwrites_what_is_not_a_bundle(soda, tiny_model: Path, tiny_bundle: Built, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(plan_text(tiny_bundle.plan))
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    code, _, err = soda("build", "--model", tiny_model, "--plan", "plan.json", "--out", precious)
    assert code == 2
    assert "is not a bundle" in err
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_every_build_says_its_sampler_steps_and_guidance_and_where_they_come_from(
    soda, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder's own scheduler decides, whatever its family's papers used."""
    from diffusers import EulerDiscreteScheduler

    shutil.copytree(tiny_model, tmp_path / "model")
    EulerDiscreteScheduler().save_pretrained(tmp_path / "model/scheduler")
    words = ("--model", "model", "--planner", "uniform", "--budget", 6)
    for asked, expected in (
        ((), "euler (scheduler_config.json), 50 steps (default of the model family), guidance 1.5 (default of"),
        (("--steps", 9, "--guidance", 4), "euler (scheduler_config.json), 9 steps (--steps), guidance 4 (--guidance)"),
        (("--sampler", "ddim"), "ddim (--sampler), 50 steps"),
    ):
        caplog.clear()
        code, _, err = soda("plan", *words, *asked, "--out", "x.plan.json")
        assert code == 0, err
        assert f"sampler: {expected}" in caplog.text
    caplog.clear()
    assert soda("build", "--model", "model", "--plan", "x.plan.json", "--guidance", 2)[0] == 2
    assert soda("build", "--model", "model", "--plan", "x.plan.json", "--out", "bundle")[0] == 0
    assert "sampler: ddim (the plan's), 50 steps (the plan's), guidance 1.5 (the plan's)" in caplog.text


def test_waiting_threads_sleep() -> None:
    """The command line says so before torch is imported: spinning threads make a busy machine ten times slower."""
    script = (
        "import os, sys, soda_export.cli.app as app; sys.argv = ['soda-export', 'run', '/nowhere']\n"
        "try: app.main()\n"
        "except SystemExit: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    done = subprocess.run([sys.executable, "-c", script], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PASSIVE", "False"]
