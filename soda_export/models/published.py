"""What is known of a model without its weights: configurations of its parts, from the package or from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ModelError

PUBLISHED_FOLDER = Path(__file__).parent / "published"
CONFIG_FILES = {"scheduler": "scheduler_config.json"}
"""Part -> name of its configuration; config.json where not listed."""
_PARTS = ("transformer", "scheduler", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


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
    """{"repository", "pipeline", "transformer", "scheduler", "vae", "text_encoder"} of an alias."""
    return read_json(published_path(alias), "it comes with the package; install the package again")


def published_path(alias: str) -> Path:
    """Where the configurations of an alias stand."""
    return PUBLISHED_FOLDER / f"{alias}.json"


def folder_configs(folder: Path) -> dict[str, Any]:
    """The same of a diffusers folder: a part is there if its configuration is."""
    found: dict[str, Any] = {}
    if (folder / "model_index.json").is_file():
        found["pipeline"] = read_json(folder / "model_index.json", "").get("_class_name")
    for part in _PARTS:
        path = transformer_folder(folder) if part == "transformer" else folder / part
        path = path / CONFIG_FILES.get(part, "config.json")
        if path.is_file():
            found[part] = read_json(path, "")
    return found


def transformer_folder(folder: Path) -> Path:
    """Where a pipeline folder has its transformer; a folder that is a bare transformer has it itself."""
    bare = (folder / "config.json").is_file() and not (folder / "transformer").is_dir()
    return folder if bare else folder / "transformer"


def read_json(path: Path, expectation: str) -> dict[str, Any]:
    """A JSON object. expectation: what the user should know where the file cannot be read."""
    try:
        value = json.loads(path.read_text())
    except OSError:
        raise ModelError(f"{path}: cannot be read; {expectation}") from None
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return value
