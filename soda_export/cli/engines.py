"""soda-export inspect BUNDLE --engines"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import onnx
from soda_runtime.checks import open_manifest
from soda_runtime.engine_index import INDEX_NAME, read_index
from soda_runtime.manifest import Manifest
from soda_runtime.signature import program_files

from ..errors import UsageError
from ..report.describe import megabytes
from ..workbench.engines import LAYERS_NAME
from .terminal import print_json, print_table


def inspect_engines(folder: Path, json: bool) -> None:
    """What every engine of a bundle is made of. Raises UsageError."""
    if not (folder / "manifest.json").is_file():
        raise UsageError(f"{folder}: --engines is for a bundle folder")
    manifest = open_manifest(folder)
    if (folder / LAYERS_NAME).is_file():
        _show_built(folder, json)
    else:
        _show_graphs(folder, manifest, json)


def _show_built(folder: Path, json: bool) -> None:
    """Engines of a library that builds ahead of time, as its builder described them."""
    engines: dict[str, Any] = msgspec.json.decode((folder / LAYERS_NAME).read_bytes())
    if json:
        print_json(engines)
        return
    index = read_index(folder) if (folder / INDEX_NAME).is_file() else None
    rows = []
    for name, engine in engines.items():
        regions = engine["regions"]
        kinds = Counter(region["kind"] for region in regions)
        fused = [region for region in regions if len(region["nodes"]) > 1]
        tactics = len({region["tactic"] for region in regions if region["tactic"]})
        most = max((len(region["nodes"]) for region in regions), default=0)
        text = f"{megabytes(engine['bytes'])}, {megabytes(engine['weights_bytes'])} of it weights; "
        text += f"{len(regions)} layers"
        text += f" ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}) with {tactics} tactics; "
        text += f"{len(fused)} fuse several nodes, at most {most}"
        text += f"; {engine['fused_attention']} attention kernels; activations {megabytes(engine['activation_bytes'])}"
        rows.append((name, text))
    title = f"{folder}: {len(engines)} engines"
    if index is not None:
        title += f" of {index.library} {index.library_version} for {', '.join(index.targets)}, weights {index.weights}"
    print_table(title, rows)


def _show_graphs(folder: Path, manifest: Manifest, json: bool) -> None:
    """Engines that are ONNX graphs: the library fuses them when it opens them, and tells nobody."""
    described: dict[str, dict[str, Any]] = {}
    for file, _ in program_files(manifest):
        graph = onnx.load(str(folder / file), load_external_data=False).graph
        kinds = Counter(node.op_type for node in graph.node)
        operators = dict(kinds.most_common())
        described[file] = {"bytes": manifest.files[file].bytes, "nodes": len(graph.node), "operators": operators}
    if json:
        print_json(described)
        return
    rows = []
    for name, each in described.items():
        most = ", ".join(f"{count} {kind}" for kind, count in list(each["operators"].items())[:6])
        rows.append((name, f"{each['nodes']} nodes: {most}"))
    print_table(f"{folder}: graphs for {manifest.backend}", rows)
