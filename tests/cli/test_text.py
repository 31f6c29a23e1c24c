"""Text models on the command line: prompts and embeddings in, pictures and latents out, and how it says no."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.cli.conftest import Soda
from tests.tiny_models import save_tiny_sana

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT, LABELS = GOLDEN / "v2-text", GOLDEN / "v2"
EXPECTED = np.load(GOLDEN / "v2-text.npz")
PROMPTS = [word for prompt in EXPECTED["prompt"] for word in ("--prompt", str(prompt))]
REQUEST = (*PROMPTS, "--negative-prompt", str(EXPECTED["negative_prompt"]), "--seed", str(EXPECTED["seed"]))


def test_prompts_give_the_golden_latents(soda: Soda, tmp_path: Path) -> None:
    code, out, err = soda("run", TEXT, *REQUEST, "--out", "out.npy", "--json")
    assert code == 0, err
    assert {"samples": 2, "out": "out.npy"}.items() <= json.loads(out).items()
    latents = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(latents, EXPECTED["latents"], rtol=0, atol=1e-4 * np.abs(EXPECTED["latents"]).max())


def test_prompts_give_the_golden_pictures(soda: Soda, tmp_path: Path) -> None:
    code, _, err = soda("run", TEXT, *REQUEST, "--out", "out.png")
    assert code == 0, err
    with Image.open(tmp_path / "out.png") as picture:
        sheet = np.asarray(picture)
    scale, gap = 6, 3  # 16 pixels enlarged to 96
    assert sheet.shape == (96 + 2 * gap, 2 * 96 + 3 * gap, 3)
    for i, image in enumerate(EXPECTED["images"]):
        left = gap + i * (96 + gap)
        tile = sheet[gap : gap + 96, left : left + 96][::scale, ::scale].astype(int)
        assert np.abs(tile - 255 * image).max() <= 1.0


def embeds_file(path: Path, **changes: np.ndarray | None) -> Path:
    rng = np.random.default_rng(0)
    tensors = {
        "prompt_embeds": rng.standard_normal((2, 8, 16)).astype(np.float32),
        "prompt_attention_mask": np.array([[1] * 8, [1] * 3 + [0] * 5]),
        "negative_prompt_embeds": rng.standard_normal((1, 8, 16)).astype(np.float32),
        "negative_prompt_attention_mask": np.ones((1, 8), np.int64),
    }
    save_file({name: array for name, array in (tensors | changes).items() if array is not None}, path)
    return path


def test_embeddings_from_a_file_are_drawn(soda: Soda, tmp_path: Path) -> None:
    embeds_file(tmp_path / "embeds.safetensors")
    for out in ("a.npy", "a.png"):
        code, _, err = soda("run", TEXT, "--embeds", "embeds.safetensors", "--out", out)
        assert code == 0, err
    first = np.load(tmp_path / "a.npy")
    assert first.shape == (2, 4, 8, 8)
    embeds_file(tmp_path / "other.safetensors", negative_prompt_embeds=np.ones((1, 8, 16), np.float32))
    assert soda("run", TEXT, "--embeds", "other.safetensors", "--out", "b.npy")[0] == 0
    assert np.abs(np.load(tmp_path / "b.npy") - first).max() > 1e-3


def test_one_prompt_is_drawn_as_often_as_asked(soda: Soda, tmp_path: Path) -> None:
    code, _, err = soda("run", TEXT, "--prompt", "a red circle", "--batch", 3, "--out", "out.npy", "--baseline")
    assert code == 0, err
    latents = np.load(tmp_path / "out.npy")
    assert latents.shape == (3, 4, 8, 8)
    assert np.abs(latents[0] - latents[1]).max() > 0.1  # noise of its own each


@pytest.mark.parametrize(
    ("bundle", "words", "message"),
    [
        (TEXT, (), "give --prompt, or --embeds"),
        (TEXT, ("--labels", "3"), "is not conditioned on labels"),
        (TEXT, ("--prompt", "red", "--labels", "3"), "give one of --labels, --prompt and --embeds"),
        (TEXT, ("--prompt", "red", "--embeds", "x"), "give one of --labels, --prompt and --embeds"),
        (TEXT, ("--prompt", "red", "--prompt", "blue", "--batch", "3"), "batch=3 and 2 of prompt"),
        (TEXT, ("--embeds", "missing.safetensors"), "--embeds missing.safetensors: cannot be read"),
        (TEXT, ("--embeds", "."), "--embeds .: cannot be read"),
        (TEXT, ("--embeds", TEXT / "weights.safetensors"), "has no tensor 'prompt_embeds'"),
        (TEXT, ("--embeds", TEXT / "manifest.json"), "manifest.json"),
        (TEXT, ("--prompt", "red", "--guidance", "nan"), "guidance"),
        (LABELS, ("--prompt", "red"), "conditioned on class labels"),
        (LABELS, ("--negative-prompt", "red"), "--negative-prompt: goes with --prompt"),
    ],
)
def test_what_does_not_fit_the_bundle_is_one_line(
    soda: Soda, tmp_path: Path, bundle: Path, words: tuple[object, ...], message: str
) -> None:
    code, out, err = soda("run", bundle, *words, "--out", "out.npy")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_attention_mask": None}, "takes attention_mask"),
        ({"negative_prompt_embeds": None}, "built with guidance"),
        ({"prompt_embeds": np.ones((2, 8, 4), np.float32)}, "embeds has shape [2, 8, 4]"),
        ({"prompt_attention_mask": np.full((2, 8), 2)}, "0 and 1"),
    ],
)
def test_embeddings_that_do_not_fit_are_one_line(
    soda: Soda, tmp_path: Path, changes: dict[str, np.ndarray | None], message: str
) -> None:
    embeds_file(tmp_path / "embeds.safetensors", **changes)
    code, _, err = soda("run", TEXT, "--embeds", "embeds.safetensors", "--out", "out.npy")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_inspect_shows_what_a_text_bundle_takes_and_gives(soda: Soda) -> None:
    code, out, err = soda("inspect", TEXT)
    assert code == 0, err
    assert "prompts of 8 tokens; images" in out
    assert "cross_attn" in out
    code, out, _ = soda("inspect", TEXT, "--json")
    shown = json.loads(out)
    assert (shown["precision"], shown["sampler"], shown["guidance"]) == ("fp32", "dpm-solver++", 4.5)
    assert soda("verify", TEXT)[0] == 0


def test_a_text_bundle_is_measured(soda: Soda) -> None:
    code, out, err = soda("bench", TEXT, "--rounds", 1, "--batch", 2, "--json")
    assert code == 0, err
    assert json.loads(out)["error"]["rmse"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--clip-skip", 1), "--clip-skip 1: tiny-pixart takes no hidden state of a CLIP text encoder; leave it out"),
        ((), "text encoder 'MT5EncoderModel' is not supported; supported: T5EncoderModel, UMT5EncoderModel, CLIP"),
    ],
)
def test_prompts_that_a_bundle_cannot_carry_are_refused_before_planning(
    soda: Soda, tiny_pixart: Path, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    folder = tmp_path / "tiny-pixart"
    shutil.copytree(tiny_pixart, folder)
    if not words:
        path = folder / "text_encoder/config.json"
        changes = {"architectures": ["MT5EncoderModel"], "model_type": "mt5"}
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    code, out, err = soda("build", "--model", folder, "--budget", 3, "--planner", "soda", "--map", "uniform", *words)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


@pytest.mark.long
def test_a_text_model_is_built_and_drawn_with(soda: Soda, tiny_pixart: Path, tmp_path: Path) -> None:
    """With the family's own sampler and guidance; a second build takes every stage from its file."""
    planning = ("--samples", "2", "--budget", "3", "--planner", "soda")
    words = ("build", "--model", str(tiny_pixart), "--steps", "8", *planning, "--json")
    result = subprocess.run(
        [sys.executable, "-m", "soda_export", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    built = json.loads(result.stdout)
    assert built["bundle"] == "engines/tiny-pixart-b3-ort"
    code, out, err = soda(*words)
    assert code == 0, err
    stages = {"map", "programs", "export", "engines-ort", "text-encoder", "decoder"}
    assert stages <= set(json.loads(out)["reused_stages"])
    manifest = json.loads((tmp_path / built["bundle"] / "manifest.json").read_text())
    assert (manifest["sampler"]["name"], manifest["guidance"]) == ("dpm-solver++", 4.5)
    code, _, err = soda("run", built["bundle"], "--prompt", "a red circle", "--out", "out.png")
    assert code == 0, err
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (6 * 16 + 2 * 3, 6 * 16 + 2 * 3)
    code, _, err = soda(
        "build", "--model", tiny_pixart, "--steps", 8, "--samples", 2, "--budget", 3, "--planner", "soda",
        "--precision", "fp16", "--without", "text-encoder", "--without", "decoder", "--out", "half", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads((tmp_path / "half/manifest.json").read_text())["precision"] == "fp16"
    code, _, err = soda("run", "half", "--prompt", "a red circle", "--out", "out.npy")
    assert code == 2
    assert "no text encoder" in err
    code, _, err = soda("run", "half", "--prompt", "a red circle", "--out", "x.png")
    assert code == 2
    assert "no decoder" in err


def test_an_encoder_that_bundles_cannot_hold_is_neither_built_nor_profiled_with(
    soda: Soda, tmp_path: Path
) -> None:
    save_tiny_sana(tmp_path / "model")
    (tmp_path / "model/text_encoder").mkdir()
    text_config = {"architectures": ["Gemma2Model"], "model_type": "gemma2"}
    (tmp_path / "model/text_encoder/config.json").write_text(json.dumps(text_config))
    code, out, err = soda(
        "build", "--model", "model", "--steps", 4, "--samples", 2, "--budget", 2, "--planner", "soda", "--out", "bundle"
    )
    assert code == 0, err
    assert "--embeds embeds.safetensors" in out
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert manifest["tokenizers"] == []
