"""Random mutations of the golden bundles of one format version, in folders that are made whole again afterwards."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soda_runtime.engine_index import FORMAT, INDEX_NAME, VERSION, EngineEntry, EngineIndex, index_text
from soda_runtime.manifest import VERSION as MANIFEST_VERSION
from soda_runtime.policy import POLICY_NAME

from tests.runtime.bundles import GOLDEN, add_starts, safetensors_bytes

from .mutated_json import mutate_json, mutate_text

MANIFEST = "manifest.json"
KINDS = {"manifest": 8, "tables": 4, "weights": 3, "tokenizer": 3, "program": 3, "index": 4, "policy": 8, "folder": 1}
Json = dict[str, Any]


class Mutator:
    """Copies of the golden bundles in `folder`, and of each one as a bundle of engines built ahead of time."""

    def __init__(self, version: int, folder: Path) -> None:
        self._contents: dict[Path, dict[str, bytes]] = {}
        self._files: dict[Path, dict[str, list[str]]] = {}
        goldens = sorted(path for path in GOLDEN.parent.glob(f"v{version}*") if path.is_dir())
        for golden in goldens:
            for indexed in (False, True):
                copied = folder / (golden.name + "-indexed" * indexed)
                shutil.rmtree(copied, ignore_errors=True)  # whatever a killed process left there
                shutil.copytree(golden, copied)
                if indexed:
                    _add_index(copied)
                if version == MANIFEST_VERSION:
                    add_starts(copied)
                self._contents[copied] = {path.name: path.read_bytes() for path in copied.iterdir()}
                self._files[copied] = _files_of(self._contents[copied])

    @contextmanager
    def mutated(self, choose: random.Random) -> Iterator[tuple[Path, str, bool]]:
        """A bundle's folder with one to three mutations of one kind in it, what they are, and whether its programs are
        whole: what an engine library says of others is its own affair."""
        folder = choose.choice(list(self._contents))
        contents, changed = self._contents[folder], dict[str, bytes]()
        wanted = choose.choices(list(KINDS), list(KINDS.values()))[0]
        named = self._files[folder]
        kind = wanted if wanted in named or wanted == "folder" else "manifest"
        if kind == "folder":
            said = _spoil_folder(folder, choose.choice(sorted(contents)), choose)
        else:
            name = choose.choice(named[kind])
            changed[name], changes = MUTATIONS[kind](contents[name], choose)
            said = f"{folder.name}/{name}: {changes}"
            if name != MANIFEST and choose.random() < 0.95:
                changed[MANIFEST] = _hashed(contents[MANIFEST], {name: changed[name]})
            if kind in ("tokenizer", "tables", "policy") and choose.random() < 0.1:
                changed[MANIFEST], more = _mutate_json_file(changed.get(MANIFEST, contents[MANIFEST]), choose)
                said += f"; {MANIFEST}: {more}"
        for name, content in changed.items():
            _put(folder / name, content)
        try:
            yield folder, said, kind != "program"
        finally:
            for name in contents if kind == "folder" else changed:
                _put(folder / name, contents[name])


def _files_of(contents: dict[str, bytes]) -> dict[str, list[str]]:
    manifest = json.loads(contents[MANIFEST])
    tokenizers = [each["file"] for each in manifest.get("tokenizers", [])]
    tokenizers.append(manifest["model"].get("condition", {}).get("tokenizer", ""))  # before version 5
    policy = _policy_of(contents)
    files = {
        "manifest": [MANIFEST], "tables": [manifest["tables"], *([policy["tables"]] if policy else [])],
        "weights": manifest["weights"], "tokenizer": [name for name in tokenizers if name],
        "program": _programs_of(manifest, policy), "index": [INDEX_NAME] if INDEX_NAME in contents else [],
        "policy": [POLICY_NAME] if policy else [],
    }  # fmt: skip
    return {kind: names for kind, names in files.items() if names}


def _policy_of(contents: dict[str, bytes]) -> Json:
    policy: Json = json.loads(contents.get(POLICY_NAME, b"{}"))
    return policy


def _programs_of(manifest: Json, policy: Json) -> list[str]:
    first = [each for finish in manifest["finish"] for each in finish.get("first", [])]
    files = [each["file"] for each in (*manifest["prepare"], *manifest["programs"], *manifest["finish"], *first)]
    return [*files, *([policy["signals"]] if policy else [])]


def _add_index(folder: Path) -> None:
    """Make a bundle over into one of TensorRT engines, as far as a reader without the library looks."""
    manifest: Json = json.loads((folder / MANIFEST).read_text())
    policy = folder / POLICY_NAME
    programs = _programs_of(manifest, json.loads(policy.read_text()) if policy.exists() else {})
    weights = manifest["weights"][0]
    entries = {name: EngineEntry(hashlib.sha256(name.encode()).hexdigest(), weights, 0) for name in programs}
    index = EngineIndex(FORMAT, VERSION, "trt", "10.9.0.34", ("sm89",), "stripped", 4, "toy", "fp32", entries)
    text = index_text(index).encode()
    (folder / INDEX_NAME).write_bytes(text)
    manifest["backend"] = "trt"
    (folder / MANIFEST).write_bytes(_hashed(json.dumps(manifest).encode(), {INDEX_NAME: text}))


def _hashed(manifest: bytes, files: dict[str, bytes]) -> bytes:
    value: Json = json.loads(manifest)
    for name, content in files.items():
        value["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return json.dumps(value).encode()


def _put(path: Path, content: bytes) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        path.rmdir()
    path.write_bytes(content)


def _spoil_folder(folder: Path, name: str, choose: random.Random) -> str:
    path = folder / name
    how = choose.choice(["removed", "empty", "folder", "link", "dangling link", "longer", "shorter"])
    content = path.read_bytes()
    if how in ("empty", "longer", "shorter"):
        path.write_bytes({"empty": b"", "longer": content + b"\n", "shorter": content[:-1]}[how])
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "link":
            path.symlink_to(choose.choice(sorted(each.name for each in folder.iterdir())))
        elif how == "dangling link":
            path.symlink_to("nothing")
    return f"{folder.name}/{name}: {how}"


def _mutate_json_file(content: bytes, choose: random.Random) -> tuple[bytes, str]:
    """Values of a JSON file, or now and then its bytes."""
    if choose.random() < 0.25:
        return mutate_text(content, choose)
    value, said = json.loads(content), []
    for _ in range(choose.randint(1, 3)):
        said.append(mutate_json(value, choose))
    return json.dumps(value).encode(), ", ".join(said)


def _mutate_tensors(content: bytes, choose: random.Random) -> tuple[bytes, str]:
    """Header, length or values of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    header, body = content[8:end], bytearray(content[end:])
    how = choose.random()
    if how < 0.6:
        header, said = _mutate_json_file(header, choose)
        if choose.random() < 0.3:
            body, more = bytearray(body[: choose.randint(0, len(body))]), ", data cut"
            return safetensors_bytes(header, bytes(body)), said + more
        return safetensors_bytes(header, bytes(body)), f"header {said}"
    if how < 0.8 and len(body) >= 4:
        at = choose.randrange(len(body) // 4) * 4
        word = choose.choice([b"\0\0\xc0\x7f", b"\0\0\x80\xff", b"\x99\x76\x96\x7e", choose.randbytes(4)])
        body[at : at + 4] = word
        return content[:end] + bytes(body), f"value {at // 4} is {word.hex()}"
    if how < 0.9:
        length = choose.choice([0, 1, end - 9, end - 7, len(content) - 8, len(content), 1 << 24, 1 << 63, 2**64 - 1])
        return length.to_bytes(8, "little") + content[8:], f"header of {length} bytes"
    return mutate_text(content, choose)


def _mutate_program(content: bytes, choose: random.Random) -> tuple[bytes, str]:
    """Bytes of an ONNX model, mostly near the names of weights files."""
    if choose.random() < 0.5:
        places = [at for at in range(len(content)) if content.startswith(b"location", at)]
        if places:
            at = choose.choice(places) + choose.randint(-12, 32)
            return mutate_text(content, choose, max(0, at))
    return mutate_text(content, choose)


MUTATIONS: dict[str, Callable[[bytes, random.Random], tuple[bytes, str]]] = {
    "manifest": _mutate_json_file, "tokenizer": _mutate_json_file, "index": _mutate_json_file,
    "policy": _mutate_json_file,
    "tables": _mutate_tensors, "weights": _mutate_tensors, "program": _mutate_program,
}  # fmt: skip
