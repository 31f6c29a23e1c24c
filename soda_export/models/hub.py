"""Bring the parts of a hub repository to a local folder: from the local cache, else by download."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..errors import ModelError
from .checkpoint import PICKLES, weight_files
from .published import CONFIG_FILES, CONTROLNETS, DENOISERS, denoiser_folder, read_json

DEFAULT_PARTS = (*DENOISERS, *CONTROLNETS, "scheduler", "vae", "vocoder", "tokenizer")
"""Parts of a pipeline that are fetched unless others are asked for: all but text encoders, of up to 19 GB."""
TEXT_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer_2", "tokenizer_3")
"""What prompts need besides, as far as the pipeline has it."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_INSTEAD = (
    "give a local copy with --weights DIR, a folder with model_index.json, transformer/ or unet/, scheduler/, vae/, "
    "tokenizer/, text_encoder/"
)
_CONTENT = ("*.json", "*.safetensors", "spiece.model", "merges.txt")  # of each part; no pickles
_TWICE = ("*.fp16.safetensors", "*.fp16-*.safetensors", "*.fp16.json")  # weights that are there in full, too
_VOCABULARIES = ("spiece.model", "tokenizer.json", "merges.txt")


def is_repository(name: str) -> bool:
    """Whether a name has the form owner/name."""
    return _REPOSITORY.fullmatch(name) is not None and not name.startswith(".")


def fetch_parts(
    repository: str, revision: str | None, parts: tuple[str, ...] = DEFAULT_PARTS, variant: str = ""
) -> Path:
    """The local folder of a repository with at least these parts, weights included; weights in half precision only if
    they are asked for, or there are no others."""
    patterns = ["model_index.json", *(f"{part}/{content}" for part in parts for content in _CONTENT)]

    def is_whole(folder: Path) -> bool:
        return (folder / "model_index.json").is_file() and _lacking(folder, parts) is None

    needless = () if variant else _TWICE
    folder = _fetch(repository, revision, patterns, is_whole, needless)
    lacking = _lacking(folder, parts)
    if lacking is not None and needless:  # perhaps there in half precision alone
        folder = _fetch(repository, revision, patterns, is_whole, ())
        lacking = _lacking(folder, parts)
    if lacking is not None:
        raise ModelError(f"{repository}: {_reason(repository, revision, lacking)}")
    return folder


def fetch_configs(repository: str, revision: str | None) -> Path:
    """The local folder of a repository with its configurations; nothing large is downloaded."""
    patterns = ["model_index.json", "*/config.json", "scheduler/*.json", "tokenizer*/*.json"]
    return _fetch(repository, revision, patterns, lambda folder: (denoiser_folder(folder) / "config.json").is_file())


def fetch_controlnet(repository: str) -> Path:
    """The local folder of a repository that is a ControlNet."""
    return _fetch(repository, None, ["config.json", "*.safetensors"], lambda folder: (folder / "config.json").is_file())


def _fetch(
    repository: str, revision: str | None, patterns: list[str], is_enough: Callable[[Path], bool],
    ignored: tuple[str, ...] = _TWICE,
) -> Path:  # fmt: skip
    """The snapshot in the local cache where that is enough, else the hub's."""
    folder = _snapshot(repository, revision, patterns, ignored, cached=True)
    if folder is None or not is_enough(folder):
        folder = _snapshot(repository, revision, patterns, ignored, cached=False)
    assert folder is not None
    return folder


def _snapshot(
    repository: str, revision: str | None, patterns: list[str], ignored: tuple[str, ...], *, cached: bool
) -> Path | None:
    """The snapshot's folder; None where only the cache may be asked and it has none."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=list(ignored),
                local_files_only=cached,
            )
        )
    except GatedRepoError:
        reason = "the repository is gated: accept its terms on its page and run `hf auth login`"
    except RepositoryNotFoundError:
        reason = "no such repository on the hub, or it is private, and no such folder here"
    except RevisionNotFoundError:
        raise ModelError(f"--revision {revision}: {repository} has no such branch, tag or commit") from None
    except HFValidationError:
        reason = "not a name that the hub allows"
    except Exception as error:  # the hub's transport library, and so its errors, differ between versions
        if cached:
            return None
        first_line = (str(error).strip().splitlines() or [""])[0]
        reason = f"not in the local hub cache, and the hub cannot be reached ({type(error).__name__}: {first_line})"
    raise ModelError(f"{repository}: {reason}; or {_INSTEAD}") from None


def _lacking(folder: Path, parts: tuple[str, ...]) -> str | None:
    """The first wanted part that model_index.json lists and the folder does not have, weights included.

    Some repositories are a denoiser without a pipeline, and without that file.
    """
    path = folder / "model_index.json"
    index = read_json(path, "") if path.is_file() else {"transformer": []}
    for part in parts:
        if not isinstance(index.get(part), list) or index[part] == [None, None]:
            continue
        if part.startswith("tokenizer"):
            present = any((folder / part / name).exists() for name in _VOCABULARIES)
        else:
            present = (folder / part / CONFIG_FILES.get(part, "config.json")).exists()
        try:
            if not part.startswith(("tokenizer", "scheduler")):
                weight_files(folder / part)
        except ModelError:
            present = False
        if not present:
            return part
    return None


def _reason(repository: str, revision: str | None, part: str) -> str:
    """Why a part did not come, and how to get on without."""
    import huggingface_hub

    try:
        files = huggingface_hub.HfApi().list_repo_files(repository, revision=revision)
    except Exception:  # no network: the hub library then gives what the cache has of a snapshot
        return f"the local hub cache lacks {part}/, and the hub cannot be reached; {_INSTEAD}"
    pickles = [name for name in files if name.startswith(f"{part}/") and name.endswith(PICKLES)]
    if not pickles:
        return f"the repository has no complete {part}/; {_INSTEAD}"
    name = repository.rpartition("/")[2]
    return (
        f"{pickles[0]} is pickled, and loading a pickle can run code; there is no .safetensors: "
        f"`hf download {repository} --local-dir {name}`, `soda-export convert {name}`, then --weights {name}"
    )
