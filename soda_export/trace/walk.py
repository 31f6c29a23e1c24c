"""Nodes of a graph in the order of computation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir


def producers(wanted: Sequence[ir.Value], known: Callable[[ir.Value], bool]) -> Iterator[ir.Node]:
    """Nodes that `wanted` are computed from, sources first; not behind values that are known."""
    seen: set[ir.Node] = set()
    stack: list[tuple[ir.Node, bool]] = [
        (node, False) for value in reversed(wanted) if (node := value.producer()) is not None and not known(value)
    ]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
            continue
        if node in seen:
            continue
        seen.add(node)
        stack.append((node, True))
        for value in reversed(node.inputs):
            source = None if value is None or known(value) else value.producer()
            if source is not None and source not in seen:
                stack.append((source, False))
