"""python -m soda_export.bench.layerwise_trt GRAPH IN.npz OUT.npz: every value of a graph as TensorRT computes it.

A process of its own, because Polygraphy takes TensorRT or TensorRT-RTX by a variable of the process. Not yet run
on a GPU.
"""

from __future__ import annotations

import sys

import numpy as np


def main() -> None:
    from polygraphy import constants
    from polygraphy.backend.trt import EngineFromNetwork, ModifyNetworkOutputs, NetworkFromOnnxPath, TrtRunner

    graph, given, made = sys.argv[1:]
    network = ModifyNetworkOutputs(NetworkFromOnnxPath(graph, strongly_typed=True), outputs=constants.MARK_ALL)
    with np.load(given) as feeds, TrtRunner(EngineFromNetwork(network)) as runner:
        np.savez(made, **runner.infer({name: feeds[name] for name in feeds}))


if __name__ == "__main__":
    main()
