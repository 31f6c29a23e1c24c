"""What TensorRT needs otherwise than ONNX Runtime: large TopK, attention's softmax, weights as inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import CompileError, InternalError

MAX_TOPK = 3840  # the most that TensorRT's TopK gives
_BUILD_TIME_ONLY = {"Conv": (1, 2)}  # operator -> inputs that TensorRT takes as constants only


def split_large_topk(model: onnx.ModelProto, limit: int = MAX_TOPK) -> int:
    """Replace every selection of more than `limit` of N tokens by what the other N - k leave over; how many.

    Indices come in ascending order instead of by score, which selection does not mind: its gather and scatter follow
    the same order. Of equal scores the lower index is kept, as by TopK. Raises CompileError where N - k is too large,
    too, or where the scores themselves are used.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    shapes = _shapes(model)
    nodes, replaced = [], 0
    for node in graph.node:
        keep = _kept(node, constants)
        if keep <= limit:
            nodes.append(node)
            continue
        tokens = shapes[node.input[0]][-1]
        if not tokens:
            raise InternalError(f"{graph.name}: {node.name}: the graph does not say among how many tokens it selects")
        if node.output[0] in used:
            raise CompileError(f"{graph.name}: {node.name}: TopK of {keep} gives scores; at most {limit} can be had")
        if tokens - keep > limit:
            raise CompileError(
                f"{graph.name}: {node.name}: keeps {keep} of {tokens} tokens; TensorRT selects at most {limit}, or all "
                f"but {limit}; plan with a planner that renews fewer tokens, or none (dcs, uniform)"
            )
        added, tensors = _complement(node, tokens, keep)
        nodes += added
        graph.initializer.extend(tensors)
        replaced += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return replaced


def weights_to_inputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """Make every weight of the weights file an input of the graph, but those that must be known when it is built."""
    graph = model.graph
    fixed = {
        name for node in graph.node for i, name in enumerate(node.input) if i in _BUILD_TIME_ONLY.get(node.op_type, ())
    }
    moved = [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL and t.name not in fixed]
    names = {tensor.name for tensor in moved}
    stay = [tensor for tensor in graph.initializer if tensor.name not in names]
    graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in moved)
    del graph.initializer[:]
    graph.initializer.extend(stay)
    return tuple(sorted(names))


def drop_softmax_precision(model: onnx.ModelProto) -> int:
    """Take the softmax's precision off Attention nodes, which the parser refuses; how many.

    What precision its attention normalises in is then the library's choice.
    """
    dropped = 0
    for node in model.graph.node:
        if node.op_type == "Attention":
            kept = [attribute for attribute in node.attribute if attribute.name != "softmax_precision"]
            dropped += len(node.attribute) - len(kept)
            del node.attribute[:]
            node.attribute.extend(kept)
    return dropped


def _kept(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> int:
    """k of a TopK; 0 of other nodes."""
    if node.op_type != "TopK" or node.input[1] not in constants:
        return 0
    return int(numpy_helper.to_array(constants[node.input[1]]).reshape(-1)[0])


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {v.name: tuple(int(d.dim_value) for d in v.type.tensor_type.shape.dim) for v in values}


def _complement(
    node: onnx.NodeProto, tokens: int, keep: int
) -> tuple[Sequence[onnx.NodeProto], Sequence[TensorProto]]:
    """TopK indices [B, keep] of scores [B, tokens] by the others, nodes and constants.

    The others are the smallest of the reversed row: of equal scores TopK then finds the higher index first. Each token
    that stays goes to its rank among those that stay, the others behind them, where they are cut off.
    """
    scores, indices, name = node.input[0], node.output[1], f"{node.name}.complement"
    arrays = {
        "backwards": np.arange(tokens - 1, -1, -1, dtype=np.int64), "others": np.array([tokens - keep], np.int64),
        "last": np.array(tokens - 1, np.int64), "numbers": np.arange(tokens, dtype=np.int64)[None],
        "zero": np.array(0, np.int64), "one": np.array(1, np.int64), "axis": np.array(1, np.int64),
        "keep": np.array(keep, np.int64), "begin": np.array([0], np.int64), "end": np.array([keep], np.int64),
        "axes": np.array([1], np.int64),
    }  # fmt: skip
    constants = {key: numpy_helper.from_array(array, f"{name}.{key}") for key, array in arrays.items()}
    made: list[onnx.NodeProto] = []

    def add(op: str, inputs: Sequence[str], result: str, outputs: int = 1, **attributes: Any) -> str:
        inputs = [f"{name}.{text}" if text in arrays or text in local else text for text in inputs]
        names = [f"{name}.{result}.{i}" for i in range(outputs - 1)] + [f"{name}.{result}"]
        made.append(helper.make_node(op, inputs, names, f"{name}.{result}", **attributes))
        local.add(result)
        return result

    local: set[str] = set()
    add("Gather", [scores, "backwards"], "reversed", axis=1)  # [B, N]
    add("TopK", ["reversed", "others"], "found", outputs=2, axis=1, largest=0, sorted=0)  # [B, N - k]
    add("Sub", ["last", "found"], "dropped")
    add("Shape", [scores], "shape")
    add("Expand", ["one", "shape"], "ones")  # [B, N]
    add("Mul", ["found", "zero"], "zeros")  # [B, N - k]
    add("ScatterElements", ["ones", "dropped", "zeros"], "stays", axis=1)  # [B, N]
    add("CumSum", ["stays", "axis"], "count")
    add("Sub", ["count", "one"], "rank")
    add("Equal", ["stays", "one"], "is_kept")
    add("Sub", ["numbers", "count"], "others_before")
    add("Add", ["others_before", "keep"], "behind")
    add("Where", ["is_kept", "rank", "behind"], "place")  # [B, N]: each place once
    add("Expand", ["numbers", "shape"], "tokens")
    add("ScatterElements", ["tokens", "place", "tokens"], "filled", axis=1)
    add("Slice", ["filled", "begin", "end", "axes"], "cut")
    made[-1].output[0] = indices
    return made, list(constants.values())
