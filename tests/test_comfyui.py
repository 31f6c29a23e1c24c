"""The nodes of integrations/comfyui against ComfyUI's node interface, with a stub in ComfyUI's place."""

from __future__ import annotations

import importlib.util
import inspect
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from soda_runtime import BundleError, Noise, RequestError, Session

from tests.lora.files import peft, write

ROOT = Path(__file__).parent.parent
NODES, GOLDEN = ROOT / "integrations/comfyui", ROOT / "tests/golden"
TYPES = {"STRING", "IMAGE", "MASK", "LATENT", "INT", "FLOAT", "AUDIO", "SODA_BUNDLE"}
OPTIONS = {
    "STRING": {"multiline", "default", "dynamicPrompts", "tooltip"},
    "INT": {"default", "min", "max", "step", "control_after_generate", "tooltip"},
    "FLOAT": {"default", "min", "max", "step", "round", "tooltip"},
}


class Interrupted(Exception):
    """What ComfyUI raises where the user cancels."""


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """ComfyUI as far as nodes see it. nodes: the package, as ComfyUI imports it. progress: what the bar was told."""
    folders: dict[str, list[str]] = {}
    state = SimpleNamespace(progress=[], interrupt_at=-1, models=tmp_path / "models")

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int) -> None:
            state.progress.append((value, self.total))

    def check() -> None:
        if len(state.progress) == state.interrupt_at:
            raise Interrupted

    stubs: dict[str, dict[str, Any]] = {
        "folder_paths": {
            "models_dir": str(state.models), "get_folder_paths": lambda name: list(folders[name]),
            "get_filename_list": lambda name: sorted(path.name for path in (state.models / name).glob("*")),
            "get_full_path": lambda name, file: next(map(str, (state.models / name).glob(file)), None),
            "add_model_folder_path": lambda name, path: folders.setdefault(name, []).append(path),
        },
        "comfy": {},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_management": {"throw_exception_if_processing_interrupted": check},
    }  # fmt: skip
    for name, content in stubs.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            setattr(sys.modules["comfy"], name.partition(".")[2], module)
    (state.models / "soda").mkdir(parents=True)
    (state.models / "loras").mkdir()
    for name in ("v5", "v5-text", "v5-inpaint", "v5-chunks", "v5-sizes"):
        shutil.copytree(GOLDEN / name, state.models / "soda" / name)
    spec = importlib.util.spec_from_file_location("soda_nodes", NODES / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    state.nodes = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "soda_nodes", state.nodes)
    spec.loader.exec_module(state.nodes)
    yield state
    for name in [name for name in sys.modules if name.startswith("soda_nodes.")]:
        del sys.modules[name]


def run(comfy: SimpleNamespace, node: str, **given: Any) -> Any:
    """A node's one output, called as ComfyUI does: inputs by name, those of the widgets checked."""
    kind = comfy.nodes.NODE_CLASS_MAPPINGS[node]
    declared = kind.INPUT_TYPES()
    known = {name: spec for group in ("required", "optional") for name, spec in declared.get(group, {}).items()}
    assert set(declared["required"]) <= set(given) <= set(known)
    for name, value in given.items():
        wanted = known[name][0]
        assert not isinstance(wanted, list) or value in wanted, (name, value)
    made = getattr(kind(), kind.FUNCTION)(**given)
    assert isinstance(made, tuple)
    assert len(made) == len(kind.RETURN_TYPES) == 1
    return made[0]


def noise_of(session: Session, seed: int, samples: int) -> Noise:
    """As KSampler draws it."""
    generator, shape = torch.manual_seed(seed), (samples, *session.bundle.manifest.model.latent_shape)
    initial = torch.randn(shape, generator=generator, device="cpu").numpy()
    sampler = session.bundle.manifest.sampler
    later = torch.randn(sampler.steps, *shape, generator=generator).numpy() if sampler.stochastic else None
    return Noise(initial, later)


def test_every_node_follows_the_interface(comfy: SimpleNamespace) -> None:
    mappings = comfy.nodes.NODE_CLASS_MAPPINGS
    assert set(mappings) == set(comfy.nodes.NODE_DISPLAY_NAME_MAPPINGS)
    for kind in mappings.values():
        assert isinstance(kind.CATEGORY, str)
        assert isinstance(kind.RETURN_TYPES, tuple)
        assert set(kind.RETURN_TYPES) <= TYPES
        parameters = inspect.signature(getattr(kind, kind.FUNCTION)).parameters
        declared = kind.INPUT_TYPES()
        assert set(declared) <= {"required", "optional", "hidden"}
        assert {n for group in declared.values() for n in group} == set(parameters) - {"self"}
        for name, (wanted, *options) in {**declared["required"], **declared.get("optional", {})}.items():
            assert isinstance(wanted, list) or wanted in TYPES
            assert not options or not isinstance(wanted, str) or set(options[0]) <= OPTIONS.get(wanted, {"tooltip"})
            assert name in declared["required"] or parameters[name].default is not inspect.Parameter.empty
    assert tomllib.loads((NODES / "pyproject.toml").read_text())["project"]["dependencies"] == [
        "soda-runtime[ort,text]==0.1.0"
    ]


def test_a_workflow_draws_what_a_session_draws(comfy: SimpleNamespace) -> None:
    bundle = run(comfy, "SodaLoadBundle", name="v5-text", backend="ort", threads=1)
    asked = {"prompt": "red", "negative_prompt": "blue", "guidance": 2.0}
    latent = run(comfy, "SodaSample", bundle=bundle, seed=7, batch_size=2, **asked)
    images = run(comfy, "SodaDecode", bundle=bundle, samples=latent)
    session = Session.open(GOLDEN / "v5-text", threads=1)
    expected = session.generate(**asked, batch=2, noise=noise_of(session, 7, 2))
    assert np.array_equal(latent["samples"].numpy(), expected)
    assert images.dtype == torch.float32
    assert np.array_equal(images.numpy(), session.images())
    steps = session.bundle.manifest.sampler.steps
    assert comfy.progress == [(i + 1, steps) for i in range(steps)]


def test_sizes_and_loras_are_chosen_as_a_session_chooses_them(comfy: SimpleNamespace) -> None:
    layer, style = {"transformer_blocks.0.attn1.to_q": (48, 48)}, comfy.models / "loras/style.safetensors"
    write(style, {name: 5 * value for name, value in peft(layer).items()})
    bundle = run(comfy, "SodaLoadBundle", name="v5-sizes", threads=1)
    styled = run(comfy, "SodaLora", bundle=bundle, lora_name="style.safetensors", strength=0.5)
    session = Session.open(GOLDEN / "v5-sizes", threads=1, lora=[(style, 0.5)])
    seen = []
    for given, strength in ((styled, 0.5), (bundle, 0.0)):
        session.set_lora_strengths([strength])
        for asked, size in (({}, (16, 16)), ({"width": 24, "height": 8}, (8, 24))):
            latent = run(comfy, "SodaSample", bundle=given, prompt="red", seed=7, batch_size=1, **asked)
            shape = session.bundle.at(size).manifest.model.latent_shape
            noise = Noise(torch.randn(1, *shape, generator=torch.manual_seed(7)).numpy())
            expected = session.generate(prompt="red", noise=noise, size=size)
            assert np.array_equal(latent["samples"].numpy(), expected)
            assert np.array_equal(run(comfy, "SodaDecode", bundle=given, samples=latent).numpy(), session.images())
            seen.append(expected)
    assert np.abs(seen[0] - seen[2]).max() > 1e-3
    for wrong, message in (
        ({"width": 16, "height": 8}, "size 8x16: this bundle has 16x16, 8x24"),
        ({"latent": {"samples": torch.zeros(1, 4, 9, 9)}, "denoise": 0.5}, r"latents of shape \[4, 9, 9\]"),
    ):
        with pytest.raises(RequestError, match=message):
            run(comfy, "SodaSample", bundle=bundle, prompt="red", seed=7, batch_size=1, **wrong)
    with pytest.raises(RequestError, match="no such file in models/loras"):
        bundle.with_lora("nothing.safetensors", 1.0)


def test_classes_are_numbers_in_the_prompt_and_policies_are_taken(comfy: SimpleNamespace) -> None:
    bundle = run(comfy, "SodaLoadBundle", name="v5", threads=1)
    session = Session.open(GOLDEN / "v5", threads=1)
    for policy, accelerated in (("bundle", True), ("full", False)):
        latent = run(comfy, "SodaSample", bundle=bundle, prompt="1, 5", seed=3, batch_size=2, policy=policy)
        expected = session.generate([1, 5], noise=noise_of(session, 3, 2), accelerated=accelerated)
        assert np.array_equal(latent["samples"].numpy(), expected)
    with pytest.raises(RequestError, match="the bundle draws classes; give their numbers"):
        run(comfy, "SodaSample", bundle=bundle, prompt="a cat", seed=3, batch_size=1)


def test_a_latent_and_a_mask_are_where_a_run_starts(comfy: SimpleNamespace) -> None:
    bundle = run(comfy, "SodaLoadBundle", name="v5-inpaint", threads=1)
    session = Session.open(GOLDEN / "v5-inpaint", threads=1)
    _, height, width = session.bundle.manifest.model.latent_shape
    clean, mask = torch.randn(1, 1, height, width), torch.zeros(1, 2 * height, 2 * width)
    mask[:, :height] = 1.0
    for denoise in (0.5, 1.0):
        asked = {"prompt": "1", "seed": 3, "batch_size": 2, "denoise": denoise, "mask": mask}
        found = run(comfy, "SodaSample", bundle=bundle, latent={"samples": clean}, **asked)["samples"]
        small = np.zeros((1, 1, height, width), np.float32)
        small[:, :, : height // 2] = 1.0
        expected = session.generate(
            1, batch=2, inputs={"mask": small}, start_latents=clean.numpy(), strength=denoise,
            noise=noise_of(session, 3, 2),
        )  # fmt: skip
        assert np.array_equal(found.numpy(), expected)


def test_frames_of_a_video_are_pictures_one_after_the_other(comfy: SimpleNamespace) -> None:
    bundle = run(comfy, "SodaLoadBundle", name="v5-chunks", threads=1)
    latent = run(comfy, "SodaSample", bundle=bundle, prompt="1 2", seed=0, batch_size=2)
    images = run(comfy, "SodaDecode", bundle=bundle, samples=latent)
    session = Session.open(GOLDEN / "v5-chunks", threads=1)
    session.generate([1, 2], noise=noise_of(session, 0, 2))
    video = session.result()
    assert np.array_equal(images.numpy(), video.reshape(-1, *video.shape[2:]))


def test_cancel_ends_a_run_and_the_next_one_is_as_ever(comfy: SimpleNamespace) -> None:
    bundle = run(comfy, "SodaLoadBundle", name="v5", threads=1)
    asked = {"bundle": bundle, "prompt": "1", "seed": 3, "batch_size": 1}
    expected = run(comfy, "SodaSample", **asked)["samples"]
    comfy.progress.clear()
    comfy.interrupt_at = 4
    with pytest.raises(Interrupted):
        run(comfy, "SodaSample", **asked)
    comfy.interrupt_at = -1
    assert torch.equal(run(comfy, "SodaSample", **asked)["samples"], expected)


def test_what_does_not_go_is_refused_in_one_line(comfy: SimpleNamespace) -> None:
    bundle = run(comfy, "SodaLoadBundle", name="v5-text", threads=1)
    asked = {"bundle": bundle, "prompt": "red", "seed": 0, "batch_size": 1}
    for wrong, message in (
        ({"mask": torch.ones(1, 8, 8)}, "does not inpaint; build it with --inpainting"),
        ({"denoise": 0.5}, "denoise below 1 starts from a latent"),
        ({"denoise": 0.5, "latent": {"samples": torch.zeros(2, 4, 8, 8)}}, "2 latents for a batch of 1"),
        ({"policy": "adaptive"}, "no policy"),
    ):
        with pytest.raises(RequestError, match=message) as refused:
            run(comfy, "SodaSample", **asked, **wrong)
        assert "\n" not in str(refused.value)
    with pytest.raises(RequestError, match="makes no sound"):
        run(comfy, "SodaDecodeAudio", bundle=bundle, samples={"samples": torch.zeros(1, 4, 8, 8)})


def test_a_bundle_that_was_built_anew_is_loaded_anew(comfy: SimpleNamespace) -> None:
    kind = comfy.nodes.NODE_CLASS_MAPPINGS["SodaLoadBundle"]
    before = kind.IS_CHANGED(name="v5", backend="bundle")
    assert before == kind.IS_CHANGED(name="v5")
    shutil.rmtree(comfy.models / "soda/v5")
    shutil.copytree(GOLDEN / "v5-policy", comfy.models / "soda/v5")
    assert kind.IS_CHANGED(name="v5") not in ("", before)
    assert kind.INPUT_TYPES()["required"]["name"][0] == [
        "v5", "v5-chunks", "v5-inpaint", "v5-sizes", "v5-text",
    ]  # fmt: skip
    for missing in ("nothing", "../soda/v5"):
        assert kind.IS_CHANGED(name=missing) == ""
        with pytest.raises(BundleError, match="no such bundle"):
            kind().load(missing)


def test_latents_are_in_comfyuis_scale(comfy: SimpleNamespace) -> None:
    scaling_of = sys.modules["soda_nodes.scaling"].scaling_of
    latents = torch.randn(2, 6, 16)  # 2 x 3 tokens
    record = {
        "parts": {"vae": {"scaling_factor": 0.25, "shift_factor": 0.5}}, "size": {"height": 32, "width": 48},
    }  # fmt: skip
    scaling = scaling_of(record, (6, 16))
    raw = scaling.to_comfy(latents)
    assert raw.shape == (2, *scaling.unpacked) == (2, 4, 4, 6)
    assert torch.allclose(scaling.to_model(raw), latents, atol=1e-6)
    assert torch.allclose(raw[0, 0, 0, 1], latents[0, 0, 1] / 0.25 + 0.5)  # the second of a token's 2 x 2
    clip = torch.randn(1, 2, 3, 4, 4)
    video = scaling_of({"parts": {"vae": {"latents_std": [2.0, 4.0], "latents_mean": [1.0, -1.0]}}}, (2, 3, 4, 4))
    assert torch.allclose(video.to_comfy(clip)[:, 1], clip[:, 1] * 4.0 - 1.0)
    assert torch.allclose(video.to_model(video.to_comfy(clip)), clip, atol=1e-6)
    plain = scaling_of({}, (1, 8, 8))
    assert torch.equal(plain.to_comfy(clip), clip)
