"""SodaPipeline: a bundle with the calling conventions of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from soda_runtime import Noise, RequestError, Session

from soda_export.pipelines import SodaPipeline
from tests.pipelines.toys import STEPS, Bench, seeded

GOLDEN = Path(__file__).parent.parent / "golden"
BAR = 1e-3
pytestmark = pytest.mark.filterwarnings("ignore")


def open_golden(name: str, **more: Any) -> SodaPipeline:
    pipe = SodaPipeline.from_bundle(GOLDEN / name, threads=1, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise_of(session: Session, samples: int, generator: torch.Generator, first: int = 0) -> Noise:
    """What a pipeline and its scheduler draw one after the other."""
    manifest = session.bundle.manifest
    shape = (samples, *manifest.model.latent_shape)
    initial, steps = torch.randn(shape, generator=generator), torch.zeros(manifest.sampler.steps, *shape)
    for step in range(first, len(steps)):
        steps[step] = torch.randn(shape, generator=generator)
    return Noise(initial.numpy(), steps.numpy() if manifest.sampler.stochastic else None)


def test_the_all_compute_bundle_draws_what_the_pipeline_draws_for_each_generator(
    open_toy: Callable[[str], Bench],
) -> None:
    bench, drawn = open_toy("sd15"), []
    alone = SodaPipeline.from_bundle(bench.full)
    alone.set_progress_bar_config(disable=True)

    def halve(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] * (0.5 if step == 2 else 1.0)}

    for pipe in (bench.pipe(), alone):
        generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
        asked = bench.toy.arguments(generator=generators, num_images_per_prompt=2, output_type="np")
        drawn.append(np.asarray(pipe(**asked, callback_on_step_end=halve).images))
    assert drawn[0].shape == drawn[1].shape == (4, 16, 16, 3)
    assert np.abs(drawn[1] - drawn[0]).max() <= BAR
    plain = alone(**bench.toy.arguments(generator=generators, num_images_per_prompt=2, output_type="np")).images
    assert np.abs(plain - drawn[0]).max() > BAR


def test_a_picture_is_encoded_and_redrawn_as_the_pipeline_does(open_toy: Callable[[str], Bench]) -> None:
    import diffusers

    bench = open_toy("sd15")
    own = diffusers.StableDiffusionImg2ImgPipeline(**bench.pipe().components, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    alone = SodaPipeline.from_bundle(bench.full, vae=own.vae)
    alone.set_progress_bar_config(disable=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    asked = bench.toy.arguments(image=PIL.Image.fromarray(pixels), strength=0.6, output_type="np")
    expected = own(**{k: v for k, v in asked.items() if k not in ("height", "width")}).images
    found = alone(**{**asked, "generator": seeded()}).images
    assert np.abs(found - expected).max() <= BAR


@pytest.mark.parametrize("name", ["v5", "v5-policy"])
def test_classes_and_the_noise_of_a_generator_reach_the_session(name: str) -> None:
    pipe, session = open_golden(name), Session.open(GOLDEN / name, threads=1)
    found = pipe([1, 2], num_images_per_prompt=2, generator=seeded(), output_type="latent").images
    noise = noise_of(session, 4, seeded())
    assert np.array_equal(found.numpy(), session.generate([1, 1, 2, 2], noise=noise))
    exact = pipe(class_labels=[1, 1, 2, 2], generator=seeded(), output_type="latent", policy="full").images
    assert np.array_equal(exact.numpy(), session.generate([1, 1, 2, 2], noise=noise, accelerated=False))
    first = torch.from_numpy(noise.initial)
    given = pipe(class_labels=[1, 1, 2, 2], latents=first, generator=skipped(first), output_type="latent").images
    assert np.array_equal(given.numpy(), found.numpy())


def skipped(drawn: torch.Tensor) -> torch.Generator:
    """The generator after the initial noise."""
    generator = seeded()
    torch.randn(drawn.shape, generator=generator)
    return generator


def test_prompts_are_repeated_side_by_side() -> None:
    pipe, session = open_golden("v5-text"), Session.open(GOLDEN / "v5-text", threads=1)
    asked = {"negative_prompt": "blue", "guidance_scale": 2.0}
    found = pipe(["red", "a circle"], **asked, num_images_per_prompt=2, generator=seeded(), output_type="np").images
    session.generate(
        prompt=["red", "red", "a circle", "a circle"], negative_prompt="blue", guidance=2.0,
        noise=noise_of(session, 4, seeded()),
    )  # fmt: skip
    assert np.array_equal(found, session.images())
    one = pipe("red", generator=seeded(), guidance_scale=0.0, output_type="latent").images
    same = session.generate(prompt="red", guidance=1.0, noise=noise_of(session, 1, seeded()))
    assert np.array_equal(one.numpy(), same)  # as in diffusers, 1 and less turn guidance off


def test_every_output_type_is_of_the_same_picture() -> None:
    pipe = open_golden("v5-text")

    def drawn(output_type: str, **more: Any) -> Any:
        return pipe("red", generator=seeded(), output_type=output_type, **more)

    array: NDArray[np.float32] = drawn("np").images
    assert array.shape[0] == 1
    assert array.shape[3] == 3
    assert np.array_equal(drawn("pt").images.permute(0, 2, 3, 1).numpy(), array)
    (picture,) = drawn("pil").images
    assert np.array_equal(np.asarray(picture), (array[0] * 255).round().astype(np.uint8))
    made = drawn("np", return_dict=False)
    assert isinstance(made, tuple)
    assert np.array_equal(made[0], array)


def test_a_clip_comes_in_frames() -> None:
    pipe = open_golden("v5-chunks")
    clip = pipe([1], generator=seeded(), output_type="np").frames
    assert pipe([1], generator=seeded(), output_type="pt").frames.shape[2] == clip.shape[-1]
    (frames,) = pipe([1], generator=seeded()).frames
    assert len(frames) == clip.shape[1]
    assert isinstance(frames[0], PIL.Image.Image)


def test_latents_and_masks_are_where_a_run_starts() -> None:
    pipe, session = open_golden("v5-inpaint"), Session.open(GOLDEN / "v5-inpaint", threads=1)
    _, *size = session.bundle.manifest.model.latent_shape
    clean = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1))
    mask = np.zeros((2, *size), np.float32)
    mask[:, : size[0] // 2] = 1.0
    for strength in (0.5, 1.0):
        found = pipe([1, 2], image=clean, mask_image=mask, strength=strength, generator=seeded(), output_type="latent")
        expected = session.generate(
            [1, 2], inputs={"mask": mask[:, None]}, start_latents=np.repeat(clean.numpy(), 2, axis=0),
            strength=strength, noise=noise_of(session, 2, seeded()),
        )  # fmt: skip
        assert np.array_equal(found.images.numpy(), expected)
        assert np.abs(found.images.numpy()[:, :, size[0] // 2 :] - clean.numpy()[:, :, size[0] // 2 :]).max() < 1e-5


def test_a_callback_sees_every_step_and_may_end_the_run() -> None:
    pipe, seen = open_golden("v5"), []

    def stop(own: SodaPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, float(timestep), tensors["latents"].shape))
        own._interrupt = step == 2
        return {}

    pipe([1], callback_on_step_end=stop, output_type="latent")
    timesteps = pipe.manifest.sampler.timesteps
    assert seen == [(i, timesteps[i], (1, *pipe.manifest.model.latent_shape)) for i in range(3)]


def test_latents_of_a_callback_that_do_not_fit_are_refused() -> None:
    pipe = open_golden("v5")
    for wrong in (lambda x: x[:, :, 1:], lambda x: x * float("nan")):
        with pytest.raises(RequestError, match=r"latents.*(shape|finite)"):
            pipe([1], callback_on_step_end=lambda *given, wrong=wrong: {"latents": wrong(given[-1]["latents"])})


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("v5", {}, "give class_labels"),
        ("v5", {"class_labels": [1], "num_inference_steps": 3}, "inference_steps=3: the bundle has 10 steps of ddim"),
        ("v5", {"class_labels": [1], "height": 512}, "height=512: the bundle makes 8x8"),
        ("v5", {"class_labels": [1], "eta": 0.5}, "eta: nothing in the bundle's compiled steps takes it"),
        ("v5", {"class_labels": [1], "prompt": "red"}, "takes no prompt"),
        ("v5", {"class_labels": [1], "num_images_per_prompt": 0}, "num_images_per_prompt=0"),
        ("v5", {"class_labels": [1], "generator": [torch.Generator()] * 2}, "2 generators for 1 samples"),
        ("v5", {"class_labels": [1], "generator": 3}, "give a torch.Generator"),
        ("v5", {"class_labels": [1], "latents": torch.zeros(1, 4)}, r"latents have shape \[1, 4\]"),
        ("v5", {"class_labels": [1], "output_type": "jpeg"}, "give one of pil, np, pt, latent"),
        ("v5", {"class_labels": [1], "strength": 0.5}, "give image and strength together"),
        ("v5", {"class_labels": [1], "policy": "adaptive"}, "this bundle has no policy"),
        ("v5", {"class_labels": [1], "callback_on_step_end_tensor_inputs": ["mask"]}, "see the latents alone"),
        ("v5-text", {}, "give a prompt, prompt_embeds or class_labels"),
        ("v5-text", {"prompt": "a", "class_labels": [1]}, "not conditioned on labels"),
        ("v5-text", {"prompt": "a", "mask_image": np.zeros((16, 16))}, "build it with --inpainting"),
        ("v5-text", {"prompt": "a", "image": torch.zeros(1, 3, 16, 16), "strength": 0.5}, "from_bundle.*vae="),
        ("v5-text", {"prompt": "a", "image": torch.zeros(1, 3, 16, 16)}, "give strength, too"),
        ("v5-text", {"prompt": "a", "image": torch.zeros(2, 4, 8, 8), "strength": 0.5}, "2 pictures for 1 samples"),
        ("v5-text", {"negative_prompt_embeds": torch.zeros(1, 8, 16)}, "has no effect without prompt_embeds"),
    ],
)
def test_what_a_bundle_cannot_do_is_refused_in_one_line(name: str, asked: dict[str, Any], message: str) -> None:
    pipe = open_golden(name)
    with pytest.raises(RequestError, match=message) as refused:
        pipe(**asked)
    assert "\n" not in str(refused.value)


def test_engines_do_not_move() -> None:
    pipe = open_golden("v5")
    assert pipe.to("cpu") is pipe
    with pytest.raises(RequestError, match=r"engines are on cpu; .*device='cuda'"):
        pipe.to(torch.device("cuda", 0))


@pytest.mark.long
def test_a_scale_without_guidance_is_refused_and_a_distilled_one_is_an_input(open_toy: Callable[[str], Bench]) -> None:
    bench = open_toy("flux")
    pipe = SodaPipeline.from_bundle(bench.full)
    pipe.set_progress_bar_config(disable=True)
    scales = [pipe(**bench.toy.arguments(output_type="latent", guidance_scale=scale)).images for scale in (1.0, 3.5)]
    assert not torch.equal(*scales)
    usual = pipe(**bench.toy.arguments(output_type="latent", guidance_scale=None)).images
    assert torch.equal(usual, scales[1])  # the model's default
    assert pipe.num_timesteps == STEPS
