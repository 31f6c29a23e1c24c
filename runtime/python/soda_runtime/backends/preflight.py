"""What is judged before an engine is opened: its library, the GPU that it is for, whose program it is."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine_index import EngineIndex
from ..errors import EngineError


@dataclass(frozen=True)
class Library:
    """backend: its name in bundles; module: to import; title: for people; install: what has it; portable: an engine
    may run on another version of the library, which says so itself."""

    backend: str
    module: str
    title: str
    install: str
    portable: bool

    def load(self) -> Any:
        """The library's module. Raises EngineError."""
        try:
            return importlib.import_module(self.module)
        except ImportError:
            raise EngineError(f"{self.title} is not installed; run `pip install {self.install}`") from None


def check_machine(path: Path, index: EngineIndex, library: Library, version: str, target: str) -> None:
    """Whether this machine's library and GPU are those that the engines were built for. Raises EngineError."""
    same_library = index.library == library.backend
    fits = same_library and target in index.targets and (library.portable or index.library_version == version)
    if not fits:
        raise EngineError(
            f"{path}: {built_for(index, library)}, this machine has {library.title} {version} and {target}; "
            f"run `{rebuild_command(path, index, target, library=library.backend)}`"
        )


def check_identity(path: Path, content: Any, index: EngineIndex, library: Library) -> None:
    """Whether the engine is the program's that the index says: engines are built under their program's name."""
    entry = index.engines.get(path.name)
    if entry is None:
        raise EngineError(f"{path}: engines.json does not list this engine; run `{rebuild_command(path, index, '')}`")
    if content.find(f"soda-program-{entry.content}".encode()) >= 0:
        return
    begin = content.find(b"soda-program-")
    found = bytes(content[begin + 13 : begin + 77]).decode("ascii", "replace") if begin >= 0 else ""
    other = next((f"the program of {name}" for name, e in index.engines.items() if e.content == found), "")
    holds = other or (f"another program ({found[:12]!r})" if found else "no program of soda-export")
    raise EngineError(
        f"{path}: engines.json says program {entry.content[:12]}, {built_for(index, library)}; the file "
        f"holds {holds}; copy the bundle again or run `{rebuild_command(path, index, '')}`"
    )


def built_for(index: EngineIndex, library: Library) -> str:
    """What the engines were made with and for, for a message."""
    title = library.title if index.library == library.backend else index.library
    return f"built by {title} {index.library_version} for {', '.join(index.targets)}"


def rebuild_command(path: Path, index: EngineIndex, target: str, *more: str, library: str = "") -> str:
    """The command that builds the bundle of an engine again, for a target where the library can choose one."""
    options = ["--target", target] if target and (library or index.library) == "trt_rtx" else []
    return index.rebuild(path.parent, *options, *more, library=library)
