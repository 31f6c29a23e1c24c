"""What a pipeline is asked for, in diffusers' words, as arguments of a session's request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from soda_runtime import Embeds
from soda_runtime.manifest import LabelPort, Manifest, ScalarPort
from torch import Tensor

from ..errors import RequestError

TEXTS = tuple(f"{prefix}prompt{number}" for number in ("", "_2", "_3") for prefix in ("", "negative_"))
EMBEDS = Embeds._fields
_DISTILLED = "distilled_guidance"
"""Port of a model that has guidance built in and takes its scale."""


def guidance_of(scale: float | None, manifest: Manifest) -> dict[str, Any]:
    """guidance_scale as the bundle takes it: of guidance inside its steps, or as a number that the model takes. As in
    diffusers 1 and less turn it off. Raises RequestError."""
    if scale is None:
        return {}
    if any(isinstance(port, ScalarPort) and port.name == _DISTILLED for port in manifest.ports):
        return {"inputs": {_DISTILLED: float(scale)}}
    if manifest.rows_per_sample == 2:
        return {"guidance": max(float(scale), 1.0)}
    if scale > 1.0:
        raise RequestError(
            f"guidance_scale={scale:g}: the bundle was built without guidance; leave it out, or build with --guidance"
        )
    return {}


def conditions(given: Mapping[str, Any], manifest: Manifest, images: int) -> tuple[dict[str, Any], int]:
    """Arguments of Session.generate for prompts, embeddings and class labels, and the number of samples.

    given: those of TEXTS, EMBEDS and class_labels that are not None. images: of each prompt, side by side. Raises
    RequestError.
    """
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise RequestError(f"num_images_per_prompt={images!r:.40}: give a whole number from 1 on")
    takes_labels = any(isinstance(port, LabelPort) for port in manifest.ports)
    if takes_labels and "class_labels" not in given:
        raise RequestError("the bundle draws classes; give class_labels, e.g. class_labels=[0, 1]")
    counts = [_count(value) for name, value in given.items() if not name.startswith("negative")]
    samples = max([*counts, 1]) * images
    made: dict[str, Any] = {}
    if "class_labels" in given:
        labels = np.asarray(_host(given["class_labels"])).reshape(-1)
        made["labels"] = [int(label) for label in np.repeat(labels, images)]
    for name in TEXTS:
        if name in given:
            made[name] = _repeated(given[name], images)
    embeds = {name: np.repeat(_array(given[name]), images, axis=0) for name in EMBEDS if name in given}
    if embeds:
        if "prompt_embeds" not in embeds:
            raise RequestError(f"{min(embeds)} has no effect without prompt_embeds; give both")
        made["embeds"] = Embeds(**embeds)
    if not made:
        raise RequestError("nothing to draw: give a prompt, prompt_embeds or class_labels, as the bundle takes them")
    return made, samples


def _count(value: Any) -> int:
    return 1 if isinstance(value, (str, int)) else len(value)


def _repeated(texts: str | Sequence[str], images: int) -> str | list[str]:
    """Each prompt for so many images in a row; one alone serves all."""
    if isinstance(texts, str):
        return texts
    return [text for text in texts for _ in range(images)]


def _host(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        return np.asarray(value.numpy())
    return np.asarray(value)
