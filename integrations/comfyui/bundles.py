"""Bundle folders among ComfyUI's models, and opened ones."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import folder_paths
from soda_runtime import Bundle, BundleError, Session

from .scaling import Scaling, read_scaling

FOLDER = "soda"
"""Of models/ in ComfyUI, and the key in extra_model_paths.yaml."""
MANIFEST = "manifest.json"
folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))  # noqa: PTH118


@dataclass(frozen=True)
class OpenedBundle:
    """What the socket SODA_BUNDLE carries. scaling: between the model's latents and those of ComfyUI's LATENT."""

    session: Session
    scaling: Scaling


def bundle_names() -> list[str]:
    """Names of the bundle folders, sorted."""
    places = [Path(place) for place in folder_paths.get_folder_paths(FOLDER)]
    return sorted({path.parent.name for place in places for path in place.glob(f"*/{MANIFEST}")})


def bundle_folder(name: str) -> Path:
    """Raises BundleError."""
    for place in folder_paths.get_folder_paths(FOLDER):
        if name in {path.parent.name for path in Path(place).glob(f"*/{MANIFEST}")}:
            return Path(place) / name
    places = " or ".join(folder_paths.get_folder_paths(FOLDER))
    raise BundleError(f"{name!r}: no such bundle in {places}; build one with soda-export, and copy its folder there")


def fingerprint(name: str) -> str:
    """Another one where the bundle was built anew; "" where there is none."""
    try:
        return hashlib.sha256((bundle_folder(name) / MANIFEST).read_bytes()).hexdigest()
    except (BundleError, OSError):
        return ""


def open_bundle(name: str, backend: str, threads: int) -> OpenedBundle:
    """backend: "" for the one that the bundle was built for. Raises BundleError and EngineError."""
    bundle = Bundle.open(bundle_folder(name), backend=backend, threads=threads)
    return OpenedBundle(bundle.session(), read_scaling(bundle.folder, bundle.manifest))
