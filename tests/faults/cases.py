"""What is killed, and starved of space: every verb that writes, with what it needs and what it must have written.

A case's words may name {model}, the toy model, and {stock}, a folder with a map, plans, a schedule and bundles.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .verbs import Verbs

_PROFILED = ("--model", "{model}", "--steps", "8", "--samples", "4")
_BUILD = ("build", *_PROFILED, "--budget", "3", "--planner", "soda", "--json")
_SWEEP = (
    "sweep", *_PROFILED, "--planners", "fora,uniform", "--flops-ratios", "1.5", "--seeds", "1000000:1000004", "--out",
    "sweep",
)  # fmt: skip
_IMPORT = ("import", "{stock}/s.json", "--from", "smoothcache", "--model", "{model}", "--steps", "8")
_BEST = ("--planner", "best", "--plan-seconds", "0.5", "--plan-samples", "2")


def _nothing(stock: Path, folder: Path) -> None:
    """The verb starts in an empty folder."""


def _stages(*kinds: str) -> Callable[[Path, Path], None]:
    """Some stages are there already, so that what is met is what comes after them."""

    def prepare(stock: Path, folder: Path) -> None:
        for kind in kinds:
            for stage in (stock / "engines/.work").glob(f"{kind}-*"):
                shutil.copytree(stage, folder / "engines/.work" / stage.name)

    return prepare


def _another_bundle(stock: Path, folder: Path) -> None:
    """All stages are there, and another bundle is where the new one goes."""
    _stages("map", "programs", "export", "engines-ort")(stock, folder)
    shutil.copytree(stock / "engines/fora", folder / "engines/tiny-b3-ort")


def _pickles(stock: Path, folder: Path) -> None:
    shutil.copytree(stock / "pickled", folder / "pickled")


@dataclass(frozen=True)
class Case:
    """A verb. equal: patterns of the files that a second run must leave as an undisturbed run does, byte for byte, and
    that are whole whenever they are there at all. bundle: the folder of the bundle that it makes, "" where none.
    share: of the kills, in parts."""

    name: str
    words: tuple[str, ...]
    equal: tuple[str, ...] = ()
    bundle: str = ""
    prepare: Callable[[Path, Path], None] = _nothing
    share: int = 1


CASES = (
    Case("build", _BUILD, ("engines/*/*",), "engines/tiny-b3-ort", share=6),
    Case("build: export on", _BUILD, ("engines/*/*",), "engines/tiny-b3-ort", _stages("map", "programs"), 3),
    Case("build: compile on", _BUILD, ("engines/*/*",), "engines/tiny-b3-ort", _stages("map", "programs", "export"), 3),
    Case("build: pack over another bundle", _BUILD, ("engines/*/*",), "engines/tiny-b3-ort", _another_bundle, 4),
    Case(
        "build: openvino", (*_BUILD, "--backend", "openvino"), ("engines/*/*",), "engines/tiny-b3-openvino",
        _stages("map", "programs", "export"),
    ),
    Case("build: best", ("build", *_PROFILED, "--budget", "3", *_BEST), (), "engines/tiny-b3-ort", _stages("map")),
    Case("profile", ("profile", *_PROFILED, "--out", "m.map.safetensors"), ("m.map.safetensors",), share=3),
    Case("plan", ("plan", *_BUILD[1:-1], "--out", "p.plan.json"), ("p.plan.json",), "", _stages("map"), 2),
    Case("run: png", ("run", "{stock}/engines/tiny-b3-ort", "--out", "x.png"), ("x.png",), share=2),
    Case("run: npy", ("run", "{stock}/engines/tiny-b3-ort", "--out", "x.npy"), ("x.npy",)),
    Case("convert", ("convert", "pickled"), ("pickled/transformer/*",), "", _pickles, 3),
    Case("export", ("export", "{stock}/f.plan.json", "--to", "smoothcache", "--out", "s.json"), ("s.json",)),
    Case("import", (*_IMPORT, "--out", "i.plan.json"), ("i.plan.json",)),
    Case("sweep", _SWEEP, ("sweep/errors/*", "sweep/plans/*"), "", _stages("map"), 2),
    Case("sweep: bench", (*_SWEEP, "--bench"), ("sweep/errors/*",), "", _stages("map")),
)  # fmt: skip


def words_of(case: Case, model: Path, stock: Path) -> list[str]:
    """The case's command, without `soda-export`."""
    return [word.format(model=model, stock=stock) for word in case.words]


def make_stock(verbs: Verbs, model: Path, stock: Path) -> None:
    """Fill `stock` with what cases need, by undisturbed runs."""
    stock.mkdir()
    fora = ("--planner", "fora", "--budget", "3")
    for words in (
        _BUILD,
        ("plan", *_PROFILED, *fora, "--out", "f.plan.json"),
        ("build", *_PROFILED, *fora, "--out", "engines/fora"),
        ("export", "f.plan.json", "--to", "smoothcache", "--out", "s.json"),
    ):
        done = verbs.run([word.format(model=model) for word in words], stock)
        assert done.code == 0, done.error
    for path in (stock / "engines/.work").iterdir():  # those of the first build alone
        if path.name not in _made_by_first(stock):
            shutil.rmtree(path)
    _save_pickles(model, stock / "pickled")


def _made_by_first(stock: Path) -> set[str]:
    """Names of the stages of the bundle tiny-b3-ort: the oldest of each kind."""
    oldest: dict[str, Path] = {}
    for path in sorted((stock / "engines/.work").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        oldest.setdefault(path.name.rpartition("-")[0], path)
    return {path.name for path in oldest.values()}


def _save_pickles(model: Path, folder: Path) -> None:
    """The toy model with pickled weights in two shards, and their index."""
    import json

    import torch
    from safetensors.torch import load_file

    shutil.copytree(model, folder)
    whole = folder / "transformer/diffusion_pytorch_model.safetensors"
    tensors = list(load_file(whole).items())
    whole.unlink()
    places = {}
    for i, part in enumerate((tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :])):
        name = f"diffusion_pytorch_model-{i + 1:05}-of-00002.bin"
        torch.save({key: value.clone() for key, value in part}, folder / "transformer" / name)
        places |= {key: name for key, _ in part}
    index = {"metadata": {}, "weight_map": places}
    (folder / "transformer/diffusion_pytorch_model.bin.index.json").write_text(json.dumps(index))
