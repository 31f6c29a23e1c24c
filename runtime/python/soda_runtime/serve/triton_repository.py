"""Lay a bundle out as a model of NVIDIA Triton's model repository, played by Triton's Python backend."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from ..bundle import Bundle
from ..errors import BundleError, RequestError
from ..manifest import MANIFEST_NAME
from ..scratch import owner
from .options import ServeOptions, check_options
from .servable import judge_bundle, name_of
from .triton_config import config_text

_BACKENDS = ("ort",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MODEL = '''"""Plays the bundle beside this file."""

from pathlib import Path

from soda_runtime.serve.triton_model import BundleModel


class TritonPythonModel(BundleModel):
    """What Triton's Python backend looks for."""

    folder = Path(__file__).parent / "bundle"
'''


def write_repository(bundle: str | os.PathLike[str], repository: Path, options: ServeOptions) -> Path:
    """Make REPOSITORY/NAME, NAME being the bundle folder's, whole or not at all: config.pbtxt, 1/model.py and 1/bundle,
    whose files are links where the disk has them. Raises BundleError and RequestError."""
    check_options(options)
    if options.lora or options.lora_folder:
        raise RequestError("--lora: a model for Triton takes none; bake it in with `soda-export build --lora`")
    with Bundle.open(bundle, backend="null") as opened:
        manifest, served, folder = opened.manifest, judge_bundle(opened, name_of(bundle)), opened.folder
    if manifest.backend not in _BACKENDS:
        raise BundleError(f"{bundle}: is for {manifest.backend}; models for Triton are made of ort bundles")
    if any((folder / MANIFEST_NAME).exists() for folder in (repository, *repository.resolve().parents)):
        raise RequestError(f"--out {repository}: lies inside a bundle, whose files are hashed; name a place outside")
    if not _NAME.fullmatch(served.name):
        raise RequestError(f"{bundle}: Triton's models have names of letters, digits and ._-; rename the folder")
    place = repository / served.name
    if os.path.lexists(place):
        raise RequestError(f"--out {repository}: has a model {served.name} already; name another folder, or remove it")
    staging = repository / f".{served.name}.{owner()}.tmp"
    try:
        inside = staging / "1" / "bundle"
        inside.mkdir(parents=True)
        for name in (MANIFEST_NAME, *manifest.files):
            _link(folder / name, inside / name)
        (staging / "1" / "model.py").write_text(_MODEL)
        (staging / "config.pbtxt").write_text(config_text(served, options))
        staging.rename(place)
    except OSError as error:
        raise RequestError(f"--out {repository}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return place


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where it is on another disk."""
    real = source.resolve()
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)
