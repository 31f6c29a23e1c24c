"""A bundle in the place of the denoiser of untouched diffusers pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from soda_runtime import BundleError, RequestError

from soda_export.pipelines import SodaPipeline, SodaTransformer
from tests.lora.files import peft, write
from tests.pipelines.toys import STEPS, TOYS, Bench

BAR = 1e-3
pytestmark = pytest.mark.filterwarnings("ignore")
LONG = ("dit", "sdxl", "sd3")
NAMES = [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in TOYS]
ENGINES = [
    pytest.param(name, backend, marks=[pytest.mark.long] * (name in LONG or (backend == "openvino" and name != "sd15")))
    for name in TOYS for backend in ("ort", "openvino")
]  # fmt: skip
OpenToy = Callable[[str], Bench]


def drawn(bench: Bench, pipe: Any, output: str = "np", **more: Any) -> np.ndarray[Any, Any]:
    return np.asarray(pipe(**bench.toy.arguments(**bench.toy.own, output_type=output, **more)).images)


def difference(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    assert np.abs(expected).max() > 0
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(("name", "backend"), ENGINES)
def test_the_pipeline_draws_with_a_bundle_what_it_draws_with_its_own_module(
    open_toy: OpenToy, name: str, backend: str, record_property: Callable[..., None]
) -> None:
    bench = open_toy(name)
    pipe = bench.pipe()
    expected = drawn(bench, pipe)
    setattr(pipe, bench.part, SodaTransformer(bench.full, backend=backend))
    for _ in range(2):  # a run leaves nothing behind
        error = difference(drawn(bench, pipe), expected)
        record_property(f"{name} {backend}: largest difference", error)
        assert error <= BAR


@pytest.mark.parametrize("name", NAMES)
def test_an_accelerated_bundle_draws_in_the_pipeline_what_it_draws_alone(
    open_toy: OpenToy, name: str, record_property: Callable[..., None]
) -> None:
    bench = open_toy(name)
    pipe, alone = bench.pipe(), SodaPipeline.from_bundle(bench.fast)
    alone.set_progress_bar_config(disable=True)
    full = drawn(bench, pipe)
    setattr(pipe, bench.part, SodaTransformer(bench.fast))
    expected = np.asarray(alone(**bench.toy.arguments(output_type="np")).images)
    error = difference(drawn(bench, pipe), expected)
    record_property(f"{name}: largest difference", error)
    assert error <= BAR
    assert difference(expected, full) > BAR  # the plan does something
    assert difference(drawn(bench, pipe, guidance_scale=1.7), expected) > BAR  # the pipeline's guidance, too


def test_callbacks_and_schedulers_of_the_pipeline_do_their_part(open_toy: OpenToy) -> None:
    bench = open_toy("sd15")
    pipe, seen = bench.pipe(), []

    def halve(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, float(timestep)))
        return {"latents": tensors["latents"] * (0.5 if step == 2 else 1.0)}

    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="v_prediction")
    expected = drawn(bench, pipe, callback_on_step_end=halve)
    assert difference(drawn(bench, pipe), expected) > BAR
    pipe.unet = SodaTransformer(bench.full)
    assert difference(drawn(bench, pipe, callback_on_step_end=halve), expected) <= BAR
    assert seen[:STEPS] == seen[STEPS:]


def test_image_to_image_begins_in_the_middle_of_the_schedule(open_toy: OpenToy) -> None:
    import diffusers

    bench = open_toy("sd15")
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**bench.pipe().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    given = {name: value for name, value in bench.toy.arguments().items() if name not in ("height", "width")}

    def redrawn(strength: float) -> np.ndarray[Any, Any]:
        generator = torch.Generator().manual_seed(2)
        more = {"image": clean, "strength": strength, "generator": generator, "output_type": "np"}
        return np.asarray(pipe(**{**given, **more}).images)

    strengths = (0.5, 1.0, 0.7)
    expected = [redrawn(strength) for strength in strengths]
    pipe.unet = SodaTransformer(bench.full)
    assert max(difference(redrawn(s), e) for s, e in zip(strengths, expected, strict=True)) <= BAR
    pipe.unet = SodaTransformer(bench.fast)
    alone = SodaPipeline.from_bundle(bench.fast)
    alone.set_progress_bar_config(disable=True)
    more = {"image": clean, "strength": 0.7, "output_type": "np", "generator": torch.Generator().manual_seed(2)}
    assert difference(redrawn(0.7), np.asarray(alone(**{**given, **more}).images)) <= BAR


def test_what_a_bundle_cannot_follow_is_refused_in_one_line(open_toy: OpenToy) -> None:
    bench = open_toy("sd15")
    pipe = bench.pipe()
    pipe.unet = SodaTransformer(bench.fast)
    expected = drawn(bench, pipe)
    for wrong, message in (
        ({"num_inference_steps": 4}, rf"none of its {STEPS} .*num_inference_steps={STEPS} and a scheduler.*\(ddim\)"),
        ({"num_inference_steps": 2 * STEPS}, f"give num_inference_steps={STEPS}"),
        ({"num_inference_steps": STEPS // 2}, f"give num_inference_steps={STEPS}"),
        ({"guidance_scale": 1.0}, "takes each sample twice.*guidance_scale above 1, or build with --guidance 1"),
        ({"height": 32}, r"latents of shape \[4, 16, 8\], the bundle is for \[4, 8, 8\]"),
        ({"cross_attention_kwargs": {"region": 1}}, "cross_attention_kwargs has no effect"),
    ):
        with pytest.raises(RequestError, match=message) as refused:
            drawn(bench, pipe, **wrong)
        assert "\n" not in str(refused.value)
        assert np.array_equal(drawn(bench, pipe), expected)  # and the next run is as ever
    embeds = {name: value[:, :70] for name, value in bench.toy.arguments().items() if name.endswith("embeds")}
    with pytest.raises(RequestError, match=r"embeds has shape \[4, 70, 16\].*max_sequence_length=77"):
        drawn(bench, pipe, **embeds)


def test_a_run_that_was_given_up_is_forgotten(open_toy: OpenToy) -> None:
    bench = open_toy("sd15")
    pipe = bench.pipe()
    pipe.unet = SodaTransformer(bench.fast)
    expected = drawn(bench, pipe)

    def stop(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt):
        drawn(bench, pipe, callback_on_step_end=stop)
    assert np.array_equal(drawn(bench, pipe), expected)


def test_it_moves_and_casts_as_the_pipeline_does(open_toy: OpenToy) -> None:
    bench = open_toy("flux")
    pipe = bench.pipe()
    expected = drawn(bench, pipe, "latent")
    pipe.transformer = SodaTransformer(bench.full)
    pipe.to(torch.bfloat16)
    assert pipe.transformer.dtype == torch.bfloat16
    given = {n: v.bfloat16() if torch.is_tensor(v) else v for n, v in bench.toy.arguments(output_type="latent").items()}
    found = pipe(**given).images
    assert found.dtype == torch.bfloat16
    assert difference(found.float().numpy(), expected) < 0.5
    assert isinstance(pipe.transformer(**_flux_call(bench), return_dict=False), tuple)


def _flux_call(bench: Bench) -> dict[str, Any]:
    spec = bench.workbench.loaded.spec
    given = bench.toy.arguments()
    constants = bench.workbench.loaded.constants
    return {
        "hidden_states": torch.randn(2, *spec.latent_shape), "timestep": torch.ones(2),
        "guidance": torch.full((2,), 2.5), "pooled_projections": given["pooled_prompt_embeds"],
        "encoder_hidden_states": given["prompt_embeds"], **constants,
    }  # fmt: skip


def test_constants_of_another_picture_are_refused(open_toy: OpenToy) -> None:
    bench = open_toy("flux")
    call = _flux_call(bench)
    module = SodaTransformer(bench.full)
    assert module(**call).sample.shape == call["hidden_states"].shape
    module.reset()
    with pytest.raises(RequestError, match="img_ids is not what the bundle was built for"):
        module(**{**call, "img_ids": call["img_ids"] + 1})
    with pytest.raises(RequestError, match="gives no pooled_embeds"):
        module(**{name: value for name, value in call.items() if name != "pooled_projections"})
    with pytest.raises(RequestError, match="several timesteps"):
        module(**{**call, "timestep": torch.tensor([1.0, 0.5])})


def test_where_programs_are_no_graphs_the_state_after_a_step_is_the_prediction(
    open_toy: OpenToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_toy("flux")
    pipe = bench.pipe()
    pipe.transformer = SodaTransformer(bench.fast)
    expected = drawn(bench, pipe)
    monkeypatch.setattr("soda_export.pipelines.predictor.can_tap", lambda backend: False)
    pipe.transformer = SodaTransformer(bench.fast)
    assert difference(drawn(bench, pipe), expected) <= 1e-6
    with pytest.raises(BundleError, match=r"guidance is inside its ort engines.*--guidance 1"):
        SodaTransformer(open_toy("sd15").full)


def test_halves_of_guidance_in_calls_of_their_own_are_runs_of_their_own(open_toy: OpenToy) -> None:
    bench = open_toy("flux")
    pipe = bench.pipe()
    words = {name: bench.toy.arguments()[name].flip(0) for name in bench.toy.texts}
    negative = {f"negative_{name}": value for name, value in words.items()} | {"true_cfg_scale": 2.0}
    expected = drawn(bench, pipe, **negative)
    assert difference(drawn(bench, pipe), expected) > BAR
    pipe.transformer = SodaTransformer(bench.full)
    assert difference(drawn(bench, pipe, **negative), expected) <= BAR


def test_a_denoiser_takes_lora_when_it_is_opened(open_toy: OpenToy, tmp_path: Path) -> None:
    bench = open_toy("sd15")
    layers = {
        name.removesuffix(".weight"): tuple(tensor.shape)
        for name, tensor in bench.pipe().unet.named_parameters() if name.endswith("to_q.weight")
    }  # fmt: skip
    file = write(tmp_path / "style.safetensors", {name: 3 * value for name, value in peft(layers, "unet.").items()})
    pipe = bench.pipe()
    for name, module in pipe.unet.named_modules():  # as diffusers fuses it
        if name in layers:
            at = 2 * list(layers).index(name)
            down, up = (3 * torch.from_numpy(each) for each in list(peft(layers).values())[at : at + 2])
            module.weight.data += 0.5 * up @ down
    given = bench.toy.arguments(output_type="latent")
    expected = pipe(**{**given, "generator": torch.Generator().manual_seed(3)}).images
    module = pipe.unet = SodaTransformer(bench.full, lora=[(file, 0.0)])
    plain = pipe(**{**given, "generator": torch.Generator().manual_seed(3)}).images
    module.set_lora_strengths([0.5])
    found = pipe(**{**given, "generator": torch.Generator().manual_seed(3)}).images
    assert (found - expected).abs().max() <= 1e-3
    assert (found - plain).abs().max() > 1e-2
    with pytest.raises(RequestError, match=r"open it with SodaTransformer\(..., lora="):
        module.load_lora_adapter({})


def test_a_bundle_without_a_record_says_that_it_is_too_old() -> None:
    golden = Path(__file__).parent.parent / "golden/v5"
    with pytest.raises(BundleError, match=r"no denoiser\.json.*build it again"):
        SodaTransformer(golden)
    with pytest.raises(BundleError, match="no such bundle folder"):
        SodaTransformer(golden / "nowhere")
