"""Which step of the bundle a timestep is: the pipeline's scheduler counts, the bundle's schedule follows."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RequestError


class Progress:
    """Follows one run after another: the cache of a schedule is right for its own steps in their order alone."""

    def __init__(self, timesteps: Sequence[float], where: str, sampler: str, asked: int) -> None:
        """where: the bundle, and sampler: its sampler's name, for messages. asked: num_inference_steps that gives these
        timesteps."""
        self._timesteps, self._where, self._sampler, self._asked = tuple(timesteps), where, sampler, asked
        self._next = 0

    def reset(self) -> None:
        """Expect a new run."""
        self._next = 0

    def take(self, timestep: float, precision: float) -> tuple[int, bool]:
        """The step that a timestep asks for, and whether a run begins with it. precision: relative, of the timestep.

        A run begins at the first step, or, as image to image does, at a later one where no run is under way. Raises
        RequestError, and then expects a new run.
        """
        follows, self._next = self._next, 0
        if 0 < follows < len(self._timesteps) and self._is(follows, timestep, precision):
            self._next = follows + 1
            return follows, False
        at = [step for step in range(len(self._timesteps)) if self._is(step, timestep, precision)]
        if not at:
            some = ", ".join(f"{known:g}" for known in self._timesteps[:3])
            raise RequestError(
                f"{self._where}: timestep {timestep:g} is none of its {len(self._timesteps)} ({some}, ..): "
                f"{self._advice()}"
            )
        step = min(at, key=lambda step: abs(self._timesteps[step] - timestep))
        if step and 0 < follows < len(self._timesteps):
            raise RequestError(
                f"{self._where}: timestep {timestep:g} is its step {step}, and step {follows} is next "
                f"(timestep {self._timesteps[follows]:g}): {self._advice()}; call reset() where a run was given up"
            )
        self._next = step + 1
        return step, True

    def _is(self, step: int, timestep: float, precision: float) -> bool:
        known = self._timesteps[step]
        return abs(known - timestep) <= max(1e-3, precision * max(abs(known), abs(timestep)))

    def _advice(self) -> str:
        return f"give num_inference_steps={self._asked} and a scheduler like the bundle's ({self._sampler})"
