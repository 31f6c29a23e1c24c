"""From what the user asked for to where the model is: a folder, or configurations and a seed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .controlled import KIND, Control
from .hub import DEFAULT_PARTS, fetch_configs, fetch_controlnet, fetch_parts, is_repository
from .published import (
    BUILTIN_CONTROLNETS,
    BUILTIN_FOLDER,
    CONTROLNETS,
    builtin_controlnets,
    builtin_models,
    denoiser_config,
    denoiser_folder,
    folder_configs,
    published_alias,
    published_controlnets,
    published_models,
    published_path,
    read_json,
    read_published,
)
from .request import ModelRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """A model that has been found. denoiser: its folder, None for random weights. config_path: where config stands."""

    name: str
    folder: Path | None
    denoiser: Path | None
    config_path: Path
    config: dict[str, Any]
    scheduler: dict[str, Any]
    published: dict[str, Any]
    expected: dict[str, Any] | None
    """Configuration that --weights must agree with."""
    controls: tuple[Control, ...] = ()


def resolve_folder(request: ModelRequest | str, parts: tuple[str, ...] = DEFAULT_PARTS) -> tuple[str, Path]:
    """A model -> (short name, its diffusers folder). Of a hub repository only the named parts are fetched."""
    request = _checked(request)
    name, folder, repository = _place(request.model)
    if request.weights is not None:
        return name, request.weights
    if folder is not None:
        return name, folder
    return name, fetch_parts(repository, request.revision, parts, request.variant)


def find_origin(request: ModelRequest | str, parts: tuple[str, ...] = DEFAULT_PARTS) -> Origin:
    """Find a model's configurations and, unless its weights are random, its folder. Raises ModelError."""
    request = _checked(request)
    name, local, repository = _place(request.model)
    _warn_of_namesakes(request.model, local)
    if request.random_weights is not None:
        return _random_origin(request, name, local, repository)
    _, folder = resolve_folder(request, parts)
    known = _known(request.model, local)
    denoiser = denoiser_folder(folder)
    path = denoiser / "config.json"
    config = read_json(path, "a diffusers pipeline folder has transformer/config.json or unet/config.json")
    scheduler = folder_configs(folder).get("scheduler") or known.get("scheduler")
    if scheduler is None:
        missing = folder / "scheduler/scheduler_config.json"
        raise ModelError(
            f"{missing}: cannot be read; a diffusers pipeline folder has scheduler/scheduler_config.json "
            "(for a bare denoiser say whose it is: --model ALIAS --weights DIR)"
        )
    expected = None if request.weights is None else denoiser_config(known)
    published = known | folder_configs(folder)
    controls = _controls(request, folder, published)
    return Origin(name, folder, denoiser, path, config, scheduler, published, expected, controls)


def _random_origin(request: ModelRequest, name: str, folder: Path | None, repository: str) -> Origin:
    """Configurations alone. A revision of a published model may differ from what the package knows of it."""
    alias = published_alias(request.model) if folder is None else None
    if alias is not None and request.revision is None:
        configs, path = read_published(alias), published_path(alias)
    else:
        folder = fetch_configs(repository, request.revision) if folder is None else folder
        configs, path = folder_configs(folder), denoiser_folder(folder) / "config.json"
    config, schedule = denoiser_config(configs), path.parent.parent / "scheduler/scheduler_config.json"
    if config is None or "scheduler" not in configs:
        file, part = (path, "denoiser") if config is None else (schedule, "scheduler")
        raise ModelError(f"{file}: cannot be read; random weights need the configuration of the {part}")
    named = f"{name}-random{request.random_weights}"
    controls = _controls(request, folder, configs)
    return Origin(named, None, None, path, config, configs["scheduler"], configs, None, controls)


def _controls(request: ModelRequest, folder: Path | None, configs: dict[str, Any]) -> tuple[Control, ...]:
    """The ControlNets that were asked for, else those of the pipeline folder."""
    random = request.random_weights is not None
    if request.controlnet:
        return tuple(_control(name, random) for name in request.controlnet)
    if folder is None:
        return ()
    own = {part: folder / part for part in CONTROLNETS if part in configs}
    return tuple(
        Control(configs[part], place / "config.json", None if random else place) for part, place in own.items()
    )


def _control(name: str, random: bool) -> Control:
    known = published_path(f"{CONTROLNETS[0]}/{name}") if name in published_controlnets() else None
    if known is not None and random:
        return Control(read_json(known, "")[CONTROLNETS[0]], known, None)
    folder = BUILTIN_CONTROLNETS / name if name in builtin_controlnets() else Path(name)
    if known is not None or not folder.is_dir():
        repository = name if known is None else str(read_json(known, "")["repository"])
        if not is_repository(repository):
            comes = ", ".join((*builtin_controlnets(), *published_controlnets()))
            raise ModelError(
                f"--controlnet {name}: neither one that comes with the package ({comes}), "
                "a folder, nor owner/name of a hub repository"
            )
        folder = fetch_controlnet(repository)
    path = folder / "config.json"
    config = read_json(path, "a ControlNet's folder has config.json and its weights")
    if config.get("_class_name") != KIND:
        raise ModelError(f"{path}: architecture {config.get('_class_name')!r} is no {KIND}")
    return Control(config, path, None if random else folder)


def _checked(request: ModelRequest | str) -> ModelRequest:
    request = ModelRequest(request) if isinstance(request, str) else request
    if request.weights is not None and request.random_weights is not None:
        raise ModelError("--weights and --random-weights: a model has either; leave one out")
    if request.weights is not None and not request.weights.is_dir():
        raise ModelError(f"--weights {request.weights}: no such folder; give a local diffusers folder")
    if request.revision is not None and (request.weights is not None or _place(request.model)[1] is not None):
        raise ModelError(f"--revision {request.revision}: only what comes from the hub has revisions; leave it out")
    return request


def _folder_name(folder: Path) -> str:
    """A folder's own name, or for a snapshot in the hub's cache (models--OWNER--NAME/snapshots/COMMIT) NAME."""
    cached = folder.parent.parent.name.split("--")
    return cached[-1] if folder.parent.name == "snapshots" and cached[0] == "models" else folder.name


def _warn_of_namesakes(model: str, folder: Path | None) -> None:
    """Say which is meant where a name is that of a folder here and of something else."""
    if not Path(model).is_dir():
        return
    known = model in builtin_models() or model in published_models()
    if known:
        what = "the built-in model" if folder is not None else "the hub's repository"
        log.warning("model %s: %s is taken, not the folder here; give ./%s for the folder", model, what, model)
    elif is_repository(model):
        log.warning("model %s: the folder here is taken, not the hub's repository of that name", model)


def _place(model: str) -> tuple[str, Path | None, str]:
    """A model -> (short name, its local folder or None, its hub repository)."""
    if model in builtin_models():
        return model, BUILTIN_FOLDER / model, ""
    if model in published_models():
        return model, None, str(read_published(model)["repository"])
    folder = Path(model)
    if folder.is_dir():
        return _folder_name(folder.resolve()), folder, ""
    if is_repository(model):
        return published_alias(model) or model.rpartition("/")[2], None, model
    raise ModelError(
        f"--model {model}: neither a built-in model ({', '.join(builtin_models())}), a hub alias "
        f"({', '.join(published_models())}), owner/name of a hub repository nor a folder; "
        "give the path of a diffusers pipeline folder"
    )


def _known(model: str, folder: Path | None) -> dict[str, Any]:
    """What is known of a model without the hub."""
    if folder is not None:
        return folder_configs(folder)
    alias = published_alias(model)
    return {} if alias is None else read_published(alias)
