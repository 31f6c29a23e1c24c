"""What the library says of an engine while it builds it: its layers, tactics, what was fused, its bytes.

The library's own inspector needs the engine opened, and so a GPU; its builder prints the same at its most talkative.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_REGION = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+),(?P<rest>.*)$", re.MULTILINE)
_TACTIC = re.compile(r"TacticName: ([^,]*),")
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_PORT = re.compile(r"^ Name: (.*?), IOMode: (Input|Output), DataType: (\w+), Dimensions: \[([-\d,]*)\]", re.MULTILINE)
_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
_DTYPES = {
    "Float": "float32", "Half": "float16", "BF16": "bfloat16", "BFloat16": "bfloat16", "Int64": "int64",
    "Int32": "int32", "Bool": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Region:
    """One layer of an engine: its kind (`gemm`, `kgen`, ...), its kernel, and the nodes of the graph that it fuses."""

    name: str
    kind: str
    tactic: str
    nodes: tuple[str, ...]


@dataclass
class BuildLog:
    """Collects what matters of a builder's messages."""

    regions: list[Region] = field(default_factory=list)
    inputs: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    outputs: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    activation_bytes: int = 0
    weights_bytes: int = 0

    def take(self, message: str, is_problem: bool) -> None:
        """One message of the library; most say nothing that is kept."""
        if is_problem:
            self.problems.append(message)
        if "LayerType: " in message:
            self.regions += [_region(match) for match in _REGION.finditer(message)]
        if "IOMode: " in message:
            for name, mode, dtype, sizes in _PORT.findall(message):
                shape = tuple(int(size) for size in sizes.split(",") if size)
                (self.inputs if mode == "Input" else self.outputs)[name] = (_DTYPES.get(dtype, dtype), shape)
        if match := _ACTIVATIONS.search(message):
            self.activation_bytes = int(match[1])
        if match := _WEIGHTS.search(message):
            self.weights_bytes = int(match[1])

    def why(self) -> str:
        """The first thing that went wrong, on one line."""
        first = self.problems[0] if self.problems else "no reason given"
        return " ".join(first.split())[:600]


def make_logger(library: Any, log: BuildLog) -> Any:
    """A logger of the library that feeds `log` and prints nothing."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.take(message, severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR))

    return Logger()


def fused_attention(regions: Iterable[Region]) -> int:
    """How many regions are attention kernels (`mha`), in which the N x N scores are never stored."""
    return sum("mha" in f"{region.name} {region.kind} {region.tactic}".lower() for region in regions)


def _region(match: re.Match[str]) -> Region:
    rest = match["rest"]
    tactic = _TACTIC.search(rest)
    nodes = tuple(dict.fromkeys(_ORIGIN.findall(rest)))
    return Region(match["name"], match["kind"], tactic[1] if tactic else "", nodes)
