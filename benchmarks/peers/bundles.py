"""Our bundles, played by soda_runtime: no torch in this process."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from soda_runtime import Bundle, Noise

from .case import Case
from .systems import System


class BundlePlayer:
    """One session of a bundle."""

    flops_ratio = 0.0
    computed: list[bool] | None = None

    def __init__(self, case: Case, system: System, shared: dict[str, Any]) -> None:
        path = system.options["bundle"]
        if path not in shared:
            shared[path] = Bundle.open(path, backend=system.options["backend"], threads=case.threads)
        self._session, self._accelerated = shared[path].session(), bool(system.options["accelerated"])
        self.case = case

    def warm(self) -> None:
        """One request opens every engine that the plan uses."""
        self.play(0)

    def play(self, request: int, steps: int = 0) -> NDArray[np.float32]:
        """From request to latents, prepare programs included."""
        case = self.case
        self._session.start(
            **self._condition(request), noise=Noise(case.noise[request]), accelerated=self._accelerated
        )
        for step in range(steps or case.sampler.steps):
            self._session.step(step)
        return self._session.latents()

    def _condition(self, request: int) -> dict[str, Any]:
        values, batch = self.case.condition, self.case.noise.shape[1]
        inputs = {name: v[request][:batch] for name, v in values.items()}
        guided = self.case.rows == 2 and "labels" not in values  # a bundle knows the null class
        return {"inputs": inputs, "negative_inputs": {n: v[request][batch:] for n, v in values.items() if guided}}


def open_player(case: Case, system: System, shared: dict[str, Any]) -> BundlePlayer:
    """A bundle, accelerated or with everything computed."""
    return BundlePlayer(case, system, shared)
