"""What is known of a model without its weights: configurations of its parts, from the package or from a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
BUILTIN_CONTROLNETS = BUILTIN_FOLDER / "controlnets"
PUBLISHED_FOLDER = Path(__file__).parent / "published"
CONFIG_FILES = {"scheduler": "scheduler_config.json"}
"""Part -> name of its configuration; config.json where not listed."""
DENOISERS = ("transformer", "unet")
"""Folders that a pipeline may have its denoiser in."""
CONTROLNETS = ("controlnet", "controlnet_1", "controlnet_2", "controlnet_3")
"""Folders of the ControlNets that a pipeline comes with."""
PARTS = (
    *DENOISERS, *CONTROLNETS, "scheduler", "vae", "vocoder", "text_encoder", "text_encoder_2", "text_encoder_3",
)  # fmt: skip
AESTHETICS = "requires_aesthetics_score"
"""Of a pipeline: whether its UNet takes how pleasing the picture is to be, as XL's refiner does."""


def builtin_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(folder.name for folder in BUILTIN_FOLDER.iterdir() if (folder / "model_index.json").is_file())


def builtin_controlnets() -> list[str]:
    """Names of the ControlNets that come with the package, weights included."""
    return sorted(folder.name for folder in BUILTIN_CONTROLNETS.glob("*/"))


def published_models() -> list[str]:
    """Aliases of hub repositories whose configurations come with the package."""
    return sorted(path.stem for path in PUBLISHED_FOLDER.glob("*.json"))


def published_alias(model: str) -> str | None:
    """The alias of a model given as an alias or as its repository."""
    for alias in published_models():
        if model == alias or model == read_published(alias)["repository"]:
            return alias
    return None


def read_published(alias: str) -> dict[str, Any]:
    """{"repository", "pipeline", perhaps AESTHETICS, and the configuration of each of PARTS that the pipeline has} of
    an alias."""
    return read_json(published_path(alias), "it comes with the package; install the package again")


def published_path(alias: str) -> Path:
    """Where the configurations of an alias stand."""
    return PUBLISHED_FOLDER / f"{alias}.json"


def published_controlnets() -> list[str]:
    """Names of ControlNets whose configurations come with the package."""
    return sorted(path.stem for path in (PUBLISHED_FOLDER / CONTROLNETS[0]).glob("*.json"))


def folder_configs(folder: Path) -> dict[str, Any]:
    """The same of a diffusers folder: a part is there if its configuration is."""
    found: dict[str, Any] = {}
    if (folder / "model_index.json").is_file():
        index = read_json(folder / "model_index.json", "")
        found["pipeline"] = index.get("_class_name")
        found[AESTHETICS] = bool(index.get(AESTHETICS, False))
    for part in PARTS:
        path = folder / part / CONFIG_FILES.get(part, "config.json")
        if path.is_file():
            found[part] = read_json(path, "")
    if denoiser_folder(folder) == folder:
        found[DENOISERS[0]] = read_json(folder / "config.json", "")
    return found


def denoiser_config(configs: Mapping[str, Any]) -> dict[str, Any] | None:
    """That of the denoiser, whichever folder it is in."""
    found: dict[str, Any] | None = next((configs[part] for part in DENOISERS if part in configs), None)
    return found


def denoiser_folder(folder: Path) -> Path:
    """Where a pipeline folder has its denoiser; a folder that is a bare denoiser has it itself."""
    inside = next((folder / part for part in DENOISERS if (folder / part).is_dir()), None)
    if inside is None and (folder / "config.json").is_file():
        return folder
    return folder / DENOISERS[0] if inside is None else inside


def read_json(path: Path, expectation: str) -> dict[str, Any]:
    """A JSON object. expectation: what the user should know where the file cannot be read."""
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        advice = f"; {expectation}" if expectation else f" ({error.strerror})"
        raise ModelError(f"{path}: cannot be read{advice}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return value
