"""What a bundle can serve: pictures of prompts or of classes. Anything else is refused at start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bundle import Bundle
from ..errors import BundleError
from ..manifest import EmbeddingPort, HintPort, ImageFinish, LabelPort, Manifest, MaskPort, ScalarPort
from ..signature import encoders
from ..sizes import Size
from .loras import ServedLora

_TEXTS = ("prompt", "prompt_2", "prompt_3")


@dataclass(frozen=True)
class Servable:
    """name: what /v1/models calls it. sizes: (height, width), the first being the default. classes: how many there are,
    0 where prompts are taken. texts: fields that take one. scalars: numbers that a request may give by name.
    has_policy: whether a request may ask for `adaptive`. loras: those that a request may name, with their strengths
    where it names none."""

    name: str
    sizes: tuple[Size, ...]
    channels: int
    classes: int
    texts: tuple[str, ...]
    scalars: tuple[ScalarPort, ...]
    guided: bool
    has_policy: bool
    loras: dict[str, float] = field(default_factory=dict)

    @property
    def size_names(self) -> dict[str, Size]:
        """As OpenAI's API spells them, WIDTHxHEIGHT."""
        return {f"{width}x{height}": (height, width) for height, width in self.sizes}


def judge_bundle(bundle: Bundle, name: str = "", loras: Sequence[ServedLora] = ()) -> Servable:
    """name: default the folder's. loras: that the bundle was opened with. Raises BundleError where a request of the
    images API has no way to say what the bundle takes, or its results are no pictures."""
    manifest, folder = bundle.manifest, bundle.folder
    if manifest.result_kind != "image":
        made = manifest.result_kind or "latents, having no decoder"
        raise BundleError(f"{folder}: cannot be served: it makes {made}; the images API answers with pictures")
    finish = next((finish for finish in manifest.finish if isinstance(finish, ImageFinish)), None)
    channels, _, _ = finish.shape if finish else manifest.model.latent_shape
    if channels not in (1, 3):
        raise BundleError(f"{folder}: cannot be served: its images have {channels} channels; PNG has 1 or 3")
    made_here = {name for program in encoders(manifest) for name in program.outputs}
    for port in manifest.ports:
        if isinstance(port, (EmbeddingPort, MaskPort)) and port.name not in made_here:
            raise BundleError(
                f"{folder}: cannot be served: it takes {port.name}, which a text encoder would make of a prompt; build "
                f"it with its text encoder"
            )
        if isinstance(port, HintPort):
            raise BundleError(
                f"{folder}: cannot be served: it takes a picture, {port.name}; the images API has no field for one"
            )
    labels = [port for port in manifest.ports if isinstance(port, LabelPort)]
    if len(labels) > 1 or (labels and manifest.tokenizers):
        raise BundleError(f"{folder}: cannot be served: it takes several kinds of conditions; play it with a Session")
    return Servable(
        name or folder.name, bundle.sizes, channels, labels[0].num_classes if labels else 0,
        _TEXTS[: len(manifest.tokenizers)], tuple(port for port in manifest.ports if isinstance(port, ScalarPort)),
        manifest.rows_per_sample == 2, bundle.policy is not None, {lora.name: lora.strength for lora in loras},
    )  # fmt: skip


def name_of(path: str | os.PathLike[str]) -> str:
    """What a user calls a bundle: its folder's name as given, though that may be a link to another."""
    return Path(path).absolute().name


def describe(servable: Servable, manifest: Manifest) -> dict[str, object]:
    """What a client may want to know of the bundle beyond OpenAI's fields of a model."""
    return {
        "size": next(iter(servable.size_names)), "sizes": list(servable.size_names), "steps": manifest.sampler.steps,
        "sampler": manifest.sampler.name, "guidance": manifest.guidance, "flops_ratio": manifest.flops_ratio,
        "precision": manifest.precision, "classes": servable.classes,
        "policies": ["adaptive"] * servable.has_policy + ["frozen", "full"], "loras": servable.loras,
        "inputs": {port.name: [port.least, port.most] for port in servable.scalars},
    }  # fmt: skip
