"""Binding times: when each value of a graph is known.

    CONSTANT          from the weights and the configuration
    STEP              once the timestep is: frozen, so a table at build time
    REQUEST           once the request is
    STEP | REQUEST    both: made once a request, for every step
    LATENTS           only in the step itself

A value is known as soon as everything that it is computed from is.
"""

from __future__ import annotations

import onnx_ir as ir

from .denoiser import LATENTS as LATENTS_INPUT
from .denoiser import TIMESTEP as TIMESTEP_INPUT
from .graph import DenoiserGraph
from .walk import producers

CONSTANT, STEP, REQUEST, LATENTS = 0, 1, 2, 4


class BindingTimes:
    """When each value of a denoiser's graph is known."""

    def __init__(self, graph: DenoiserGraph) -> None:
        self._known: dict[ir.Value, int] = {}
        for name, value in graph.inputs.items():
            self._known[value] = {LATENTS_INPUT: LATENTS, TIMESTEP_INPUT: STEP}.get(name, REQUEST)
        for site in graph.sites:
            if site.kept is not None:
                self._known[site.kept] = LATENTS

    def of(self, value: ir.Value) -> int:
        """The binding time of a value."""
        for node in producers([value], lambda v: v in self._known):
            join = CONSTANT
            for source in node.inputs:
                if source is not None:
                    join |= self._known.get(source, CONSTANT)
            for output in node.outputs:
                self._known[output] = join
        return self._known.get(value, CONSTANT)
