"""A case: a model folder, its frozen sampler, and the requests that every system answers. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soda_export.options import SamplerOptions

_CASE, _INPUTS = "case.json", "inputs.npz"
Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """noise: float32 [Q, B, C, H, W] for Q requests of B samples. condition: name -> [Q, R, ...], the conditional half
    first: labels, or embeds and attention_mask. threads: of every system."""

    model: str
    folder: Path
    sampler: SamplerOptions
    threads: int
    noise: NDArray[np.float32]
    condition: dict[str, Array]

    @property
    def requests(self) -> int:
        """Number of requests Q."""
        return len(self.noise)

    @property
    def rows(self) -> int:
        """Rows of the model's batch for each sample."""
        return next(iter(self.condition.values())).shape[1] // self.noise.shape[1]

    @cached_property
    def scheduler_config(self) -> dict[str, Any]:
        """The model's own."""
        config: dict[str, Any] = json.loads((self.folder / "scheduler/scheduler_config.json").read_text())
        return config

    def save(self, place: Path) -> None:
        """Write what a worker process needs."""
        place.mkdir(parents=True, exist_ok=True)
        options = {"model": self.model, "folder": str(self.folder), "sampler": asdict(self.sampler),
                   "threads": self.threads}  # fmt: skip
        (place / _CASE).write_text(json.dumps(options))
        np.savez(place / _INPUTS, noise=self.noise, **self.condition)

    @classmethod
    def load(cls, place: Path) -> Case:
        """Read what `save` wrote."""
        options = json.loads((place / _CASE).read_text())
        with np.load(place / _INPUTS) as stored:
            arrays = {name: stored[name] for name in stored}
        sampler = SamplerOptions(**options["sampler"])
        return cls(options["model"], Path(options["folder"]), sampler, options["threads"], arrays.pop("noise"), arrays)
