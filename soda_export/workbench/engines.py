"""Engines of a set of graphs, each built once: an engine is kept by the content of its program, whatever the plan."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import onnx
from soda_runtime.engine_index import FORMAT, INDEX_NAME, VERSION, EngineEntry, EngineIndex, index_text
from soda_runtime.signature import COEFFICIENTS, WINDOW_AXIS
from soda_runtime.tensors import read_header

from ..compile import AHEAD_OF_TIME, compile_engine, compile_engines, library_version
from ..compile.content import graph_content
from ..compile.nvidia.card import CARD_NAME, ENGINE_NAME, BuiltCard, read_card
from ..compile.options import EngineOptions
from .stages import StageStore

log = logging.getLogger(__name__)
LAYERS_NAME = "engine-layers.json"


def make_engines(
    store: StageStore, backend: str, export: Path, names: Sequence[str], options: EngineOptions, inputs: dict[str, Any]
) -> Path:
    """A folder with an engine NAME for each graph NAME of `export`; inputs: all that the graphs depend on.

    A backend that builds ahead of time leaves NAME.json, the engine's card, too. Raises CompileError.
    """
    stage = f"engines-{backend}"
    if backend not in AHEAD_OF_TIME:
        key = {**inputs, "library": library_version(backend)}
        return store.produce(stage, key, lambda folder: compile_engines(backend, export, names, folder))
    library = {"library": library_version(backend), "options": asdict(options)}

    def gather(folder: Path) -> None:
        built = 0
        for name in names:
            graph = export / name
            key = {**library, "content": graph_content(graph), "steps": _window_steps(graph)}
            known = len(store.reused)
            made = store.produce(f"engine-{backend}", key, partial(_build, backend, graph, options))
            built += len(store.reused) == known
            link_file(made / ENGINE_NAME, folder / name)
            link_file(made / CARD_NAME, card_path(folder / name))
            link_file(graph, graph_path(folder, name, backend))
        cards = [read_card(card_path(folder / name)) for name in names]
        log.info("compile: %d of %d engines built, the others taken from before; %s", built, len(names), cost(cards))

    return store.produce(stage, {**inputs, **library}, gather)


def _build(backend: str, graph: Path, options: EngineOptions, out: Path) -> None:
    compile_engine(backend, graph, out, options)


def cost(cards: Sequence[BuiltCard]) -> str:
    """What the engines take, by where their weights are."""
    size, weights = sum(card.bytes for card in cards) / 1e6, sum(card.weights_bytes for card in cards) / 1e6
    block = max(card.activation_bytes for card in cards) / 1e6
    where = {
        "baked": f"{weights:.1f} MB of it weights, a copy in each engine, on disk and on the device",
        "stripped": f"without {weights:.1f} MB of weights, which the device has once an engine",
        "inputs": f"{weights:.1f} MB of it weights; the rest of the weights once on the device, for all engines",
    }[cards[0].weights]
    return f"{size:.1f} MB, {where}; activations {block:.1f} MB at batch {cards[0].max_batch}, one block for all"


def card_path(engine: Path) -> Path:
    """Where the card of an engine that make_engines left lies."""
    return engine.with_name(f"{engine.name}.json")


def graph_path(folder: Path, file: str, backend: str) -> Path:
    """Where a bundle keeps the graph of a program: the program itself, or beside the engine that was built from it."""
    return folder / (f"graph-{file}" if backend in AHEAD_OF_TIME else file)


def write_engine_index(engines: Mapping[str, Path], model: str, precision: str, out: Path) -> None:
    """engines.json and, for people, what every engine is made of. engines: by their names in the bundle."""
    cards: dict[str, BuiltCard] = {name: read_card(card_path(engine)) for name, engine in engines.items()}
    first = next(iter(cards.values()))
    index = EngineIndex(
        FORMAT, VERSION, first.library, first.library_version, first.targets, first.weights, first.max_batch, model,
        precision,  # type: ignore[arg-type]
        {name: EngineEntry(card.content, card.weights_file, card.activation_bytes) for name, card in cards.items()},
    )  # fmt: skip
    (out / INDEX_NAME).write_text(index_text(index))
    (out / LAYERS_NAME).write_text(layers_text(cards))


def layers_text(cards: dict[str, BuiltCard]) -> str:
    """engine-layers.json: of every engine its bytes and its regions, one region a line."""
    parts = []
    for name, card in sorted(cards.items()):
        regions = ",\n".join("  " + _region_text(region) for region in card.regions)
        parts.append(
            f' "{name}": {{"bytes": {card.bytes}, "weights_bytes": {card.weights_bytes}, "activation_bytes": '
            f'{card.activation_bytes}, "fused_attention": {card.attention}, "regions": [\n{regions}\n ]}}'
        )
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _region_text(region: Any) -> str:
    return msgspec.json.encode(region).decode()


def _window_steps(graph: Path) -> int:
    """Steps in the longest window that the program serves; 0 where it has no window."""
    model = onnx.load(str(graph), load_external_data=False).graph
    axes = {dim.dim_param for value in model.input for dim in value.type.tensor_type.shape.dim}
    if WINDOW_AXIS not in axes:
        return 0
    return read_header(graph.parent / "tables.safetensors")[COEFFICIENTS].shape[0]


def link_file(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
