"""What no golden bundle has plays as its definition says: half precision, a history, learned variance, no window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, BundleError, EngineError, Noise
from soda_runtime.philox import INITIAL_STREAM, latent_noise

from .bundles import distance, edit_manifest, fix_hashes, put
from .toys import SHAPE, STEPS, Toy, onnx

TOYS = {
    "a label alone, with no program for windows of steps": Toy(),
    "a tensor of every step, made of one of the request": Toy(windowed=True),
    "a state of three tensors": Toy(state_size=3),
    "noise at every step": Toy(stochastic=True),
    "a history and noise": Toy(state_size=2, stochastic=True),
    "a learned variance": Toy(stochastic=True, learned=True),
    "a learned variance and a history": Toy(state_size=2, stochastic=True, learned=True),
    "a learned variance that no step uses": Toy(learned=True),
    "half precision": Toy("fp16", windowed=True),
    "bfloat16": Toy("bf16", windowed=True),
    "bfloat16 with all the rest": Toy("bf16", 2, True, True, True),
    "coefficients of the schedule": Toy(fitted=True),
    "coefficients of the schedule for a history, noise and learned variance": Toy("fp16", 2, True, True, True, True),
}


def noise_of(seed: int, batch: int, stochastic: bool) -> Noise:
    """The noise that a seed stands for in a toy."""
    steps = np.stack([latent_noise(seed, 1 + i, batch, SHAPE) for i in range(STEPS)])
    return Noise(latent_noise(seed, INITIAL_STREAM, batch, SHAPE), steps if stochastic else None)


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS.keys())
def test_a_bundle_plays_as_computed_by_hand(tmp_path: Path, toy: Toy) -> None:
    session = Bundle.open(toy.write(tmp_path / "toy"), threads=1).session()
    for labels in ([1], [0, 4, 2], [4]):
        for accelerated in (True, False):
            latents = session.generate(labels, seed=5, accelerated=accelerated)
            expected = toy.play(labels, noise_of(5, len(labels), toy.stochastic), accelerated)
            # an ulp in what is rounded to half precision may round the other way
            assert distance(latents, expected) <= {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1e-2}[toy.precision]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_rounds_the_cache(tmp_path: Path, precision: str) -> None:
    toy, noise = Toy(precision), noise_of(5, 1, False)
    latents = Bundle.open(toy.write(tmp_path / "toy"), threads=1).session().generate(1, seed=5)
    assert distance(latents, toy.play([1], noise)) < distance(latents, Toy().play([1], noise))


@pytest.mark.parametrize("window", [1, 3])
def test_a_tensor_of_every_step_in_windows_gives_the_same_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    toy = Toy("fp16", windowed=True)
    bundle = Bundle.open(toy.write(tmp_path / "toy"), threads=1)
    whole = bundle.session().generate([1, 3], seed=5)
    monkeypatch.setattr("soda_runtime.playback.MAX_WINDOW_BYTES", 2 * 2 * window)  # two rows of one half
    session = bundle.session()
    assert np.array_equal(session.generate([1, 3], seed=5), whole)
    assert session.playback.window == window


def test_a_bundle_with_no_program_for_windows_plays_on_the_null_backend(tmp_path: Path) -> None:
    session = Bundle.open(Toy().write(tmp_path / "toy"), backend="null").session()
    assert session.generate([1, 2], seed=3).shape == (2, *SHAPE)
    assert session.playback.window == STEPS


@pytest.mark.parametrize(("given", "claimed"), [(True, False), (False, True)])
def test_coefficients_of_another_width_than_a_learned_variance_has_are_refused(
    tmp_path: Path, given: bool, claimed: bool
) -> None:
    folder = Toy(stochastic=True, learned=given).write(tmp_path / "toy")
    edit_manifest(folder, put("sampler", "learned_variance", value=claimed))
    with pytest.raises(BundleError, match="columns"):
        Bundle.open(folder, backend="null")


@pytest.mark.parametrize("program", ["compute.onnx", "gain.onnx"])
def test_an_engine_that_writes_more_than_its_place_holds_is_an_engine_error(tmp_path: Path, program: str) -> None:
    toy = Toy()
    folder = toy.write(tmp_path / "toy")
    model = onnx.load(folder / program)
    name = {"compute.onnx": "cache_out.0.m", "gain.onnx": "gain"}[program]
    node = next(node for node in model.graph.node if name in node.output)
    node.output[0] = "once"
    model.graph.node.append(onnx.helper.make_node("Concat", ["once"] * 9, [name], axis=0))
    onnx.save(model, folder / program)
    fix_hashes(folder)
    session = Bundle.open(folder, threads=1).session()
    with pytest.raises(EngineError, match=r"(step 0|prepare): .*ONNX Runtime failed"):
        session.generate(1)
