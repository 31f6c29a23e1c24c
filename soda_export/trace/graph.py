"""A traced denoiser as one graph: its sites' values, and beside each renewable site the branch for kept tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..models.arguments import first_argument
from ..models.paths import SiteModule
from .denoiser import DenoiserTrace, kept_name
from .marks import DOMAIN, input_mark, output_mark
from .onnx import TracedGraph
from .share import Shared
from .tidy import tidy
from .walk import producers


@dataclass(frozen=True)
class SiteValues:
    """outputs: computed in full. tokens: what the module is given, [R, N, D]; kept: a free value that stands for some
    of those tokens; renewed: the outputs for the kept ones. The last three are None where tokens cannot be renewed."""

    outputs: tuple[ir.Value, ...]
    tokens: ir.Value | None = None
    kept: ir.Value | None = None
    renewed: ir.Value | None = None


@dataclass(frozen=True)
class DenoiserGraph:
    """inputs: latents, timestep and ports by name. sites: in the order of the spec; order: their numbers in the order
    of computation. weights: value -> name in the checkpoint, perhaps transposed."""

    inputs: Mapping[str, ir.Value]
    prediction: ir.Value
    sites: tuple[SiteValues, ...]
    order: tuple[int, ...]
    weights: Mapping[ir.Value, str]


def join_graph(trace: DenoiserTrace, sites: Sequence[SiteModule]) -> DenoiserGraph:
    """The tidied trace, with the renewal of each site that has one as a branch of its own."""
    whole = tidy(trace.whole)
    graph, weights = whole.graph, dict(whole.weights)
    shared = Shared(graph)
    marks = {node.attributes.get_string("name"): node for node in graph if node.domain == DOMAIN}
    renewals = None if trace.renewals is None else tidy(trace.renewals)
    number = {path: i for i, alike in enumerate(trace.renewed) for path in alike}
    names = {name: value for value, name in weights.items()}
    values = []
    for site in sites:
        outputs: list[ir.Value] = []
        while (name := output_mark(site.path, len(outputs))) in marks:
            outputs.append(marks[name].outputs[0])
        if site.path not in number or renewals is None:
            values.append(SiteValues(tuple(outputs)))
            continue
        i = number[site.path]
        path, output = trace.renewed[i][0], renewals.graph.outputs[i]
        tokens = marks[input_mark(site.path, first_argument(site.module))].outputs[0]
        kept = ir.Value(name=kept_name(site.path), type=tokens.type)
        given = {renewals.input(kept_name(path)): kept}
        for value in renewals.graph.inputs:
            if str(value.name).startswith(f"{path}("):
                given[value] = marks[str(value.name).replace(path, site.path, 1)].outputs[0]
        renewed = _graft(renewals, output, f"sites.{i}", site.path, given, weights, names, shared)
        values.append(SiteValues(tuple(outputs), tokens, kept, renewed))
    inputs = {str(value.name): value for value in graph.inputs}
    place = {value: i for i, node in enumerate(graph) for value in node.outputs}
    order = sorted(range(len(values)), key=lambda k: place[values[k].outputs[0]])
    return DenoiserGraph(inputs, graph.outputs[0], tuple(values), tuple(order), weights)


def _graft(
    fragment: TracedGraph, output: ir.Value, prefix: str, path: str, given: Mapping[ir.Value, ir.Value],
    weights: dict[ir.Value, str], names: dict[str, ir.Value], shared: Shared,
) -> ir.Value:  # fmt: skip
    """Copy what an output of a fragment is computed from, but for what the graph computes already; weights under
    `prefix` are those under `path`. Nodes are numbered anew: the trace numbers those of all fragments."""
    known: dict[ir.Value, ir.Value] = dict(given)

    def local(value: ir.Value) -> ir.Value:
        if value not in known:
            if value in fragment.weights:
                name = path + fragment.weights[value].removeprefix(prefix)
                if name not in names:
                    names[name] = ir.Value(name=name, type=value.type, shape=value.shape)
                    weights[names[name]] = name
                known[value] = names[name]
            else:  # a constant of the code
                known[value] = value
        return known[value]

    for count, node in enumerate(producers([output], known.__contains__)):
        inputs = [None if value is None else local(value) for value in node.inputs]
        computed = shared.find(node, inputs)
        if computed is not None:
            known |= dict(zip(node.outputs, computed, strict=True))
            continue
        name = f"{path}/{node.op_type}_{count}"
        outputs = [ir.Value(name=f"{name}.{i}", type=v.type, shape=v.shape) for i, v in enumerate(node.outputs)]
        ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), outputs=outputs, name=name)
        known |= dict(zip(node.outputs, outputs, strict=True))
    return local(output)
