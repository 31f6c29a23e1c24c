"""A bundle of MusicLDM makes of prompts what diffusers' MusicLDMPipeline makes: features, latents, mel and sound."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import onnxruntime as ort
import pytest
import torch
from soda_runtime import Bundle, Noise
from soda_runtime.manifest import AudioFinish, ImageFinish

from soda_export.cli.run import run
from soda_export.errors import ModelError
from soda_export.export.decoders import DECODER_NAME, DecoderSource, decoder_source, open_decoder
from soda_export.export.decoders.sound import SoundDecoder
from soda_export.models.load import LoadedModel, ModelRequest, load_model
from soda_export.options import SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.text_pipelines import musicldm_pipeline
from tests.text_toys import save_musicldm_texts
from tests.tiny_models import save_tiny_musicldm

STEPS, GUIDANCE, BOUND = 3, 2.0, 1e-5
PROMPTS, NEGATIVES = ["a red circle", "The 2nd photo of a café!"], ["", "blue"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unet, text encoder, autoencoder and vocoder."""
    return save_musicldm_texts(save_tiny_musicldm(tmp_path_factory.mktemp("models") / "toy"))


def build(request: ModelRequest, work: Path) -> tuple[LoadedModel, Bundle]:
    """A bundle that computes everything."""
    options = SamplerOptions("ddim", STEPS, 0.0, GUIDANCE)
    bench = Workbench(request, options, StageStore(work / "store"), lambda *_: None)
    assert bench.loaded.family.default_guidance == GUIDANCE
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "everything")
    return bench.loaded, Bundle.open(bench.build(plan, "ort", work / "bundle").out)


def difference(found: Any, expected: Any) -> float:
    """The largest, relative to the largest magnitude."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seconds", [pytest.param(None, marks=pytest.mark.long), 0.08])
@torch.no_grad()
def test_a_bundle_sounds_as_the_pipeline_does(seconds: float | None, folder: Path, tmp_path: Path) -> None:
    loaded, bundle = build(ModelRequest(str(folder), seconds=seconds), tmp_path)
    pipe, session = musicldm_pipeline(folder), bundle.session()
    shape = loaded.spec.latent_shape
    assert shape == (4, 8 if seconds is None else 5, 4)
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(5))
    asked: dict[str, Any] = {
        "prompt": PROMPTS, "negative_prompt": NEGATIVES, "audio_length_in_s": seconds, "latents": noise,
        "num_inference_steps": STEPS,
    }  # fmt: skip
    latents = pipe(**asked, output_type="latent").audios
    mel = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample[:, 0]
    sound = pipe(**asked).audios
    found = session.generate(prompt=PROMPTS, negative_prompt=NEGATIVES, noise=Noise(noise.numpy()))
    features = session.playback.request["embeds"].read().view(np.float32).reshape(4, 24)
    expected = pipe._encode_prompt(PROMPTS, "cpu", 1, True, NEGATIVES)
    source = decoder_source(loaded)
    assert source is not None
    decoder = open_decoder(source)
    assert isinstance(decoder, SoundDecoder)
    assert isinstance(bundle.manifest.finish[0], AudioFinish)
    assert bundle.manifest.finish[0].sample_rate == 1000
    assert bundle.manifest.finish[0].shape == (1, sound.shape[1])
    assert np.abs(sound).std() > 0.01
    found_mel = decoder.module().mel(torch.from_numpy(found))
    differences = [
        difference(features, torch.cat([expected[2:], expected[:2]])), difference(found, latents),
        difference(found_mel, mel), difference(session.result()[:, 0], sound),
    ]  # fmt: skip
    print("features, latents, mel, sound:", *(f"{number:.1e}" for number in differences))
    assert max(differences) <= BOUND
    run(str(tmp_path / "bundle"), prompt=PROMPTS[:1], seed=7, out=str(tmp_path / "clip.wav"))
    session.generate(prompt=PROMPTS[:1], seed=7)
    with wave.open(str(tmp_path / "clip.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (1, 1000, sound.shape[1])
        played = np.frombuffer(file.readframes(sound.shape[1]), "<i2") / 32767
    np.testing.assert_allclose(played, session.result()[0, 0], rtol=0, atol=1e-4)


def test_a_sound_is_cut_to_what_was_asked_for(folder: Path) -> None:
    lengths = {}
    for seconds in (None, 0.05, 0.1, 1.0):
        source = decoder_source(load_model(ModelRequest(str(folder), seconds=seconds)))
        assert source is not None
        lengths[seconds] = source.latent_shape[1], open_decoder(source).finish.shape[1]
    # 16 samples a latent; the toy's vocoder makes 2 more in all, and whole frames alone count
    assert lengths == {None: (8, 128), 0.05: (3, 50), 0.1: (6, 98), 1.0: (63, 1000)}


def test_without_a_vocoder_the_result_is_the_spectrogram(tmp_path: Path) -> None:
    folder = save_tiny_musicldm(tmp_path / "toy", vocoder=False, sample_size=(8, 4))
    source = decoder_source(load_model(str(folder)))
    assert source is not None
    decoder = open_decoder(source)
    assert isinstance(decoder.finish, ImageFinish)
    assert decoder.finish.shape == (1, 16, 8)
    decoder.export(tmp_path)
    latents = torch.randn(2, 4, 8, 4, generator=torch.Generator().manual_seed(0))
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        mel = vae.decode(latents / vae.config.scaling_factor).sample
    expected = np.clip(mel.numpy() / 2 + 0.5, 0, 1)
    program = ort.InferenceSession(tmp_path / DECODER_NAME, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(program.run(None, {"latents": latents.numpy()})[0], expected, rtol=0, atol=1e-5)
    with pytest.raises(ModelError, match=r"--seconds 1: without a vocoder/"):
        load_model(ModelRequest(str(folder), seconds=1.0))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vocoder", {"model_in_dim": 16}, r"model_in_dim=16, but the autoencoder makes 8"),
        ("vocoder", {"architectures": ["UnivNetModel"]}, r"vocoder \['UnivNetModel'\] is not supported"),
        ("vae", {"out_channels": 3}, "out_channels=3 is not supported"),
        ("vocoder", {"upsample_kernel_sizes": [4]}, "1 upsample_kernel_sizes; there must be as many of both"),
        ("vocoder", {"upsample_kernel_sizes": []}, r"upsample_kernel_sizes=\[\]: a list of whole numbers above 0"),
        ("vocoder", {"upsample_rates": 5}, "upsample_rates=5: a list of whole numbers above 0"),
        ("vocoder", {"upsample_initial_channel": 16}, r"conv_pre\.weight' is \[8, 8, 7\], config.json says \[16"),
    ],
)  # fmt: skip
def test_parts_that_make_no_sound_are_refused(
    part: str, changes: dict[str, object], message: str, folder: Path, tmp_path: Path
) -> None:
    places = {"vae": folder / "vae", "vocoder": folder / "vocoder"}
    changed = tmp_path / part
    changed.mkdir()
    for file in places[part].iterdir():
        (changed / file.name).symlink_to(file)
    (changed / "config.json").unlink()
    config = json.loads((places[part] / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=message) as refused:
        open_decoder(DecoderSource({**places, part: changed}, (4, 8, 4))).export(tmp_path)
    assert "\n" not in str(refused.value)
