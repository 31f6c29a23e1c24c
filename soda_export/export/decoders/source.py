"""What a pipeline decodes latents with, as far as exporting it is concerned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ...models.load import LoadedModel
from ...models.published import read_json

PARTS = ("vae", "vocoder")
"""Folders of a pipeline that decoders are made of."""
_RANDOM_SEED = 0  # of a decoder whose weights are nowhere: it is there for its latency


@dataclass(frozen=True)
class DecoderSource:
    """parts: name -> its diffusers folder, else the fields of its config.json. latent_shape: of one sample.
    frames_per_second: of clips, 0 for pictures. seed: of the random weights of parts without a folder. seconds: that a
    sound is cut to, 0 for all of it. size: height and width of a picture in pixels, zeros where the latents say it."""

    parts: Mapping[str, Path | Mapping[str, Any]]
    latent_shape: tuple[int, ...]
    frames_per_second: float = 0.0
    seed: int | None = None
    variant: str = ""
    seconds: float = 0.0
    size: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> str:
        """The autoencoder's class in diffusers, or the model type of one of ours."""
        config = self.config("vae")
        return str(config.get("_class_name", config.get("model_type", "AutoencoderKL")))

    def config(self, part: str) -> Mapping[str, Any]:
        """The fields of a part's config.json. Raises ModelError where it cannot be read."""
        place = self.parts[part]
        if not isinstance(place, Path):
            return place
        return read_json(place / "config.json", "a diffusers folder has a config.json")

    def where(self, part: str) -> str:
        """Where its configuration stands, for messages."""
        place = self.parts[part]
        return str(place / "config.json") if isinstance(place, Path) else f"{part} config"

    def refuse(self, part: str, supported: Mapping[str, Any]) -> None:
        """Raises ModelError where the configuration says anything but `supported` of a key, or nothing."""
        config = self.config(part)
        for key, value in supported.items():
            if config.get(key, value) != value:
                raise ModelError(f"{self.where(part)}: {key}={config[key]!r} is not supported")


def decoder_source(loaded: LoadedModel) -> DecoderSource | None:
    """What a model's pipeline decodes with; None where it has no autoencoder, so that latents are the result."""
    parts: dict[str, Path | Mapping[str, Any]] = {}
    for part in PARTS:
        config = loaded.component_config(part)
        if config is not None:
            parts[part] = loaded.component_folder(part) or config
    if "vae" not in parts:
        return None
    is_random = not all(isinstance(place, Path) for place in parts.values())
    seed = _RANDOM_SEED if is_random else None
    return DecoderSource(
        parts, loaded.spec.latent_shape, loaded.fps, seed, loaded.variant, loaded.seconds, loaded.size
    )
