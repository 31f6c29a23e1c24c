"""Bundle folders among ComfyUI's models, and opened ones."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import folder_paths
from soda_runtime import Bundle, BundleError, RequestError, Session
from soda_runtime.sizes import Size, judge_size

from .scaling import Scaling, read_scalings

LORAS = "loras"
"""ComfyUI's own folder of LoRA files."""
FOLDER = "soda"
"""Of models/ in ComfyUI, and the key in extra_model_paths.yaml."""
MANIFEST = "manifest.json"
folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))  # noqa: PTH118


@dataclass(frozen=True)
class OpenedBundle:
    """What the socket SODA_BUNDLE carries. scalings: at each size, between the model's latents and those of ComfyUI's
    LATENT. loras: files with their strengths, for this socket; others may carry the same session with other ones."""

    session: Session
    scalings: dict[Size | None, Scaling]
    loras: tuple[tuple[Path, float], ...] = ()

    def with_lora(self, name: str, strength: float) -> OpenedBundle:
        """The same with one more of ComfyUI's LoRA files. Raises RequestError."""
        path = folder_paths.get_full_path(LORAS, name)
        if path is None:
            raise RequestError(f"{name!r}: no such file in models/{LORAS}")
        return replace(self, loras=(*self.loras, (Path(path), strength)))

    def take_loras(self) -> None:
        """Make the session's next request one with these LoRA. Raises RequestError and EngineError."""
        bundle = self.session.bundle
        if [path for path, _ in self.loras] != [path for path, _ in bundle.loras]:
            self.session.set_loras(self.loras)
        elif self.loras != bundle.loras:
            self.session.set_lora_strengths([strength for _, strength in self.loras])

    def size(self, height: int, width: int) -> Size | None:
        """The one that is asked for, 0 standing for the first one's; None where the bundle names none. Raises
        RequestError."""
        bundle = self.session.bundle
        if not bundle.sizes:
            if height or width:
                raise RequestError("the bundle does not say its size, so leave width and height at 0")
            return None
        first = bundle.sizes[0]
        return judge_size((height or first[0], width or first[1]), bundle.sizes)

    def size_of(self, shape: tuple[int, ...]) -> Size | None:
        """That of latents [B, *shape] of a LATENT. Raises RequestError."""
        for size, scaling in self.scalings.items():
            if scaling.unpacked == shape:
                return size
        shapes = ", ".join(str(list(scaling.unpacked)) for scaling in self.scalings.values())
        raise RequestError(f"latents of shape {list(shape)}: the bundle has {shapes}")


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
    return OpenedBundle(bundle.session(), read_scalings(bundle))


def lora_names() -> list[str]:
    """ComfyUI's LoRA files."""
    return list(folder_paths.get_filename_list(LORAS))
