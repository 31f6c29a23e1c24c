"""What a caller asks of a session, as one record: prompts or values of ports, seed or noise, guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .manifest import EmbeddingPort, HintPort, LabelPort, Manifest, MaskPort, TokenMaskPort
from .philox import INITIAL_STREAM, latent_noise
from .progress import StepDone


class Noise(NamedTuple):
    """Noise given by the caller. initial: [B, *latent_shape]. steps: [S, B, *latent_shape], for stochastic samplers
    only."""

    initial: NDArray[np.float32]
    steps: NDArray[np.float32] | None = None


class Embeds(NamedTuple):
    """Text embeddings given by the caller, as diffusers' encode_prompt gives them: of tokens [B, T, E], their masks
    [B, T] of 0 and 1 where the bundle takes masks, and pooled ones [B, P] where it takes those.

    The negative ones are needed where the bundle was built with guidance, and not looked at elsewhere. This is short
    for `inputs` where a bundle has one port of each kind.
    """

    prompt_embeds: NDArray[np.float32]
    prompt_attention_mask: NDArray[np.int64] | None = None
    negative_prompt_embeds: NDArray[np.float32] | None = None
    negative_prompt_attention_mask: NDArray[np.int64] | None = None
    pooled_prompt_embeds: NDArray[np.float32] | None = None
    negative_pooled_prompt_embeds: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Request:
    """Arguments of `Session.generate` and `start`, as they came: `judge_request` says whether they fit a bundle.

    labels, prompt or embeds: whichever the model is conditioned on, one or one per sample. inputs: values of any ports
    by name, [n, *shape of the port] with n = 1 or one per sample; scalars as a number or [n]. negative_inputs: those of
    the unconditional rows. negative_prompt: what guidance leads away from; one or one per sample. batch: repeats a
    single one; 0 takes their number. seed: 0 .. 2**64-1, ignored where noise is given. guidance: default the bundle's.
    accelerated=False plays the same model with everything computed at every step.

    policy: `frozen` follows the bundle's schedule, `adaptive` its policy, which decides as the run goes, `full`
    computes everything; default the policy where the bundle has one and the run begins with noise. vote: who decides in
    a batch, each `sample` for itself, `any` (a step is computed for all where one needs it) or the `mean`; default
    `sample` on the host, where results then do not depend on the batch, and `any` on a device. decisions: what each
    step does, as Session.decisions has it, [S] or [S, B], in place of deciding.

    start_latents: clean latents [n, *latent_shape], n = 1 or one per sample, as the encoder of the model's VAE gives
    them, scaled as the model takes them. The run then starts at start_step, 0 .. S-1, from these and noise, or at the
    step that strength, above 0 and up to 1, stands for in diffusers' image-to-image pipelines. A bundle that inpaints
    keeps them where the port `mask` is 0, and begins with noise alone at a strength of 1.

    prompt_2, prompt_3 and their negative ones: what the second and the third text encoder get, as in diffusers'
    pipelines; None and "" stand for the prompt and the negative prompt.

    on_step: called after every step, in the thread that plays it. It may look at the session and cancel; what it raises
    ends the request and is raised to the caller.

    size: height and width in pixels, one of the bundle's; default its first.
    """

    labels: int | Sequence[int] | None = None
    _: KW_ONLY
    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] = ""
    embeds: Embeds | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    negative_inputs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch: int = 0
    noise: Noise | None = None
    guidance: float | None = None
    accelerated: bool = True
    start_latents: NDArray[np.float32] | None = None
    strength: float | None = None
    start_step: int | None = None
    prompt_2: str | Sequence[str] | None = None
    prompt_3: str | Sequence[str] | None = None
    negative_prompt_2: str | Sequence[str] | None = None
    negative_prompt_3: str | Sequence[str] | None = None
    policy: Literal["", "frozen", "adaptive", "full"] = ""
    vote: Literal["", "sample", "any", "mean"] = ""
    decisions: Any = None
    on_step: Callable[[StepDone], object] | None = None
    size: tuple[int, int] | None = None


class Described(Protocol):
    """A bundle, as far as its manifest."""

    manifest: Manifest


def example_request(bundle: Described, samples: int) -> dict[str, Any]:
    """Arguments of a request that any bundle takes, for proofs and measurements: classes in turn, and embeddings of
    noise that need no text encoder."""
    inputs: dict[str, Any] = {}
    negative: dict[str, Any] = {}
    for port in bundle.manifest.ports:
        if isinstance(port, LabelPort):
            inputs[port.name] = [i % port.num_classes for i in range(samples)]
        elif isinstance(port, (EmbeddingPort, HintPort)):
            inputs[port.name] = latent_noise(0, INITIAL_STREAM, samples, port.shape)
        elif isinstance(port, (MaskPort, TokenMaskPort)):
            inputs[port.name] = np.ones((samples, *port.shape), np.int64)
        if port.name in inputs and not isinstance(port, (LabelPort, HintPort)) and bundle.manifest.rows_per_sample == 2:
            negative[port.name] = inputs[port.name][:1]
    return {"inputs": inputs, "negative_inputs": negative, "batch": samples}
