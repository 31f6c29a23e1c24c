"""soda-export run"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from soda_runtime import DeviceOptions, Embeds, Session
from soda_runtime.errors import BundleError
from soda_runtime.lora import parse_lora
from soda_runtime.manifest import LabelPort
from soda_runtime.tensors import read_tensors

from ..errors import UsageError
from ..models.request import parse_size
from .inputs import parse_inputs, read_latents
from .previews import open_previews
from .results import check_result, write_result
from .terminal import print_json, progress_bar, say


def run(
    bundle: str,
    /,
    *,
    labels: str | None = None,
    prompt: list[str] | None = None,
    negative_prompt: str = "",
    prompt_2: list[str] | None = None,
    prompt_3: list[str] | None = None,
    negative_prompt_2: str = "",
    negative_prompt_3: str = "",
    embeds: Path | None = None,
    input: list[str] | None = None,
    start_latents: Path | None = None,
    strength: float | None = None,
    start_step: int | None = None,
    batch: int = 0,
    seed: int = 0,
    guidance: float | None = None,
    baseline: bool = False,
    policy: Literal["adaptive", "frozen", "full"] | None = None,
    vote: Literal["sample", "any", "mean"] | None = None,
    size: str | None = None,
    out: str | None = None,
    preview: Path | None = None,
    backend: str = "",
    weights: Literal["prepacked", "shared"] | None = None,
    lora: list[str] | None = None,
    device: str = "auto",
    cuda_graph: Literal["auto", "on", "off"] = "auto",
    json: bool = False,
) -> None:
    """Generate with a bundle and write a picture, a clip, a sound, or the latents.

    Examples:

        soda-export run engines/digits-b17-ort --labels 0,1,2,3 --seed 0 --out out.png

        soda-export run engines/pixart-b8-ort --prompt "a lighthouse at dawn" --negative-prompt "blurry" --out out.png

        soda-export run engines/digits-b17-ort --labels 7 --baseline --out full.png

        soda-export run engines/sdxl-b20-ort --prompt "a glass house" --input hint=edges.png --input control_scale=0.7

        soda-export run engines/wan-b20-ort --prompt "a lighthouse at dawn, waves" --out clip.mp4

        soda-export run engines/digits-b17-ort --labels 7 --preview steps --out out.png

        soda-export run engines/sdxl-b20-ort --prompt "a glass house" --lora style.safetensors:0.8

        soda-export run engines/digits-b17-ort --labels 7 --start-latents seven.npy --strength 0.6 --out redrawn.png

    Parameters
    ----------
    bundle
        Bundle folder.
    labels
        Class of each sample, separated by commas, where the model takes classes. [default: 0]
    prompt
        What to draw, where the model takes text; give it several times for several samples.
    negative_prompt
        What to steer away from.
    prompt_2
        What the second text encoder gets in place of --prompt (SDXL, FLUX.1, SD3), once or once a sample.
    prompt_3
        The same of the third one (SD3).
    negative_prompt_2
        What the second text encoder gets in place of --negative-prompt.
    negative_prompt_3
        The same of the third one.
    embeds
        Safetensors file of text embeddings with the names of diffusers' encode_prompt: prompt_embeds,
        prompt_attention_mask, pooled_prompt_embeds and the same with negative_ in front, as far as the model takes
        them.
    input
        NAME=VALUE, several times for several: a number (control_scale=0.7, distilled_guidance=4) or a picture of the
        image's size (hint=edges.png, or a .npy file of 0..1), by the name of the bundle's port.
    start_latents
        A .npy file of clean latents [C, H, W], or [B, C, H, W], to start from (image to image): what the encoder of the
        model's VAE makes of a picture, or what `run --out latents.npy` wrote. Goes with --strength or --start-step.
    strength
        How much of the run to make, above 0, up to 1; the step that it starts at is that of diffusers' image-to-image
        pipelines.
    start_step
        The step to start at, in place of a strength.
    batch
        Samples of a single label, prompt or embedding.
    seed
        Seed of the noise, 0 .. 2**64-1.
    guidance
        Guidance scale. [default: the bundle's]
    baseline
        Compute everything at every step, for comparison.
    policy
        What to follow, of a bundle that has a policy: adaptive, that policy; frozen, the schedule; full, neither.
        [default: adaptive where the bundle can]
    vote
        Who decides in a batch: each sample for itself, any (a step is computed for all where one needs it) or the mean.
        [default: sample on a CPU, any on a GPU]
    size
        Height x width in pixels, of a bundle of several sizes, e.g. 512x768. [default: its first]
    out
        File to write: .png for images; .mp4 (needs the extra `video`), .gif or a folder (frames/) of pictures for
        video; .wav for sound; .npy for latents [B, C, H, W]. [default: out.png, out.mp4, out.wav or out.npy]
    preview
        Folder for what the result would be after each step: step-0000.png and so on, of bundles that make no images
        .npy files of clean latents.
    backend
        Open an ort bundle with openvino, or the other way round. [default: the one it was built for]
    weights
        prepacked: a copy an engine, or shared: one for all engines, slower on the CPU. [default: what is faster]
    lora
        LoRA to add to the weights, FILE or FILE:STRENGTH, several if repeated. [default strength: 1]
    device
        cpu, cuda or cuda:N; auto is the backend's own.
    cuda_graph
        On CUDA, record the loop and launch it as one: auto from the second request of a batch size on, on before the
        first. ONNX Runtime: on records each step, auto nothing.
    json
        Print the result as JSON.
    """
    session = Session.open(
        bundle, backend=backend, device=device, weights=weights or "", options=DeviceOptions(cuda_graph=cuda_graph),
        lora=[parse_lora(each) for each in lora or ()],
    )  # fmt: skip
    asked = None if size is None else parse_size(size)
    manifest, place = session.bundle.at(asked).manifest, check_result(out, session)
    previews = None if preview is None else open_previews(preview, session)
    is_text = not any(isinstance(port, LabelPort) for port in manifest.ports)
    condition = _condition(is_text, labels, prompt, negative_prompt, embeds)
    condition |= _more_prompts(
        prompt is None, prompt_2=prompt_2, prompt_3=prompt_3, negative_prompt_2=negative_prompt_2,
        negative_prompt_3=negative_prompt_3,
    )  # fmt: skip
    if input:
        condition["inputs"] = parse_inputs(input, manifest)
    if start_latents is not None:
        condition["start_latents"] = read_latents(start_latents, manifest.model.latent_shape)
    started = time.perf_counter()
    session.start(
        **condition, strength=strength, start_step=start_step, batch=batch, seed=seed, guidance=guidance,
        accelerated=not baseline, policy=policy or "", vote=vote or "", size=asked,
    )  # fmt: skip
    if session.playback.loop is not None and previews is None:
        session.run_steps()  # as one, which the host does not follow step by step
    else:
        with progress_bar() as progress:
            for step in range(session.next_step, manifest.sampler.steps):
                session.step(step)
                if previews is not None:
                    previews.write(session, step)
                progress("steps", step + 1, manifest.sampler.steps)
    latents = session.latents()
    with progress_bar() as progress:
        write_result(place, session, progress)
    seconds = time.perf_counter() - started
    calls = (session.decisions == 0).sum(axis=0).tolist() if session.playback.play == "adaptive" else []
    if json:
        result: dict[str, Any] = {"out": place.given, "samples": len(latents), "seed": seed, "seconds": seconds}
        if session.truncated:
            result["truncated"] = [cut._asdict() for cut in session.truncated]
        print_json(result | ({"calls": calls} if calls else {}))
        return
    of_calls = f", {_numbers(calls)} model calls of {manifest.sampler.steps} steps" if calls else ""
    say(f"{place.given}: {len(latents)} samples in {seconds:.2f} s (engines opened on the way){of_calls}")


def _numbers(calls: list[int]) -> str:
    """One number where all are alike, else the least and the greatest."""
    return str(calls[0]) if len(set(calls)) == 1 else f"{min(calls)} to {max(calls)}"


def _condition(
    is_text: bool, labels: str | None, prompt: list[str] | None, negative_prompt: str, embeds: Path | None
) -> dict[str, Any]:
    """What the request is conditioned on. Which one the bundle takes, the runtime judges."""
    if sum(given is not None for given in (labels, prompt, embeds)) > 1:
        raise UsageError("give one of --labels, --prompt and --embeds")
    if negative_prompt and prompt is None:
        raise UsageError("--negative-prompt: goes with --prompt; leave it out")
    if prompt is not None:
        return {"prompt": [_decoded(text) for text in prompt], "negative_prompt": _decoded(negative_prompt)}
    if embeds is not None:
        return {"embeds": _read_embeds(embeds)}
    if labels is None and is_text:
        raise UsageError("this bundle draws from text: give --prompt, or --embeds with a file of text embeddings")
    return {"labels": _parse_labels(labels or "0")}


def _more_prompts(alone: bool, **given: list[str] | str | None) -> dict[str, Any]:
    """What the other text encoders get. alone: there is no --prompt."""
    for name, value in given.items():
        if value and alone:
            raise UsageError(f"--{name.replace('_', '-')}: goes with --prompt; leave it out")
    return {
        name: _decoded(value) if isinstance(value, str) else [_decoded(text) for text in value]
        for name, value in given.items()
        if value
    }


def _decoded(text: str) -> str:
    """A prompt as it was typed: what the locale's encoding has no letters for is UTF-8. Raises UsageError."""
    try:
        return os.fsencode(text).decode() if any("\ud800" <= c <= "\udfff" for c in text) else text
    except UnicodeError:
        where = f"this locale's encoding, {sys.getfilesystemencoding()}, nor in UTF-8"
        raise UsageError(f"--prompt: is text neither in {where}; set LC_ALL=C.UTF-8") from None


def _read_embeds(path: Path) -> Embeds:
    try:
        tensors: dict[str, NDArray[Any]] = read_tensors(path)
    except OSError as error:
        raise UsageError(f"--embeds {path}: cannot be read ({error.strerror})") from None
    except BundleError as error:
        raise UsageError(f"--embeds {error}") from None
    if "prompt_embeds" not in tensors:
        raise UsageError(f"--embeds {path}: has no tensor 'prompt_embeds', as diffusers' encode_prompt gives")
    return Embeds(**{name: tensors[name] for name in Embeds._fields if name in tensors})


def _parse_labels(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--labels {text}: give whole numbers separated by commas, e.g. 0,1,2,3") from None
