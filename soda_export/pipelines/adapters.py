"""diffusers' calls for LoRA on a bundle: files are loaded under names, and chosen by these with their weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soda_runtime import Session

from ..errors import RequestError

Weights = float | Sequence[float | None] | None
_HUB = "subfolder", "revision", "token", "cache_dir", "force_download", "proxies", "local_files_only", "use_safetensors"


class LoraAdapters:
    """The LoRA files of one bundle by name."""

    def __init__(self, session: Session) -> None:
        """What the session's bundle was opened with is in use."""
        self.session = session
        self._files: dict[str, Path] = {}
        self._active: dict[str, float] = {}
        for file, strength in session.bundle.loras:
            name = self._next_name()
            self._files[name], self._active[name] = file, strength

    def load_lora_weights(
        self, pretrained_model_name_or_path_or_dict: str | os.PathLike[str], weight_name: str | None = None,
        adapter_name: str | None = None, **others: Any,
    ) -> None:  # fmt: skip
        """Use a LoRA at weight 1, and no others, as diffusers does: a file, or `weight_name` in a folder. set_adapters
        uses several. Raises RequestError."""
        given = pretrained_model_name_or_path_or_dict
        if not isinstance(given, (str, os.PathLike)):
            raise RequestError("load_lora_weights: a bundle takes LoRA from files; save the tensors as .safetensors")
        odd = next((name for name, value in others.items() if value is not None and name not in _HUB), None)
        if odd is not None:
            raise RequestError(f"load_lora_weights: {odd} has no effect on a bundle; leave it out")
        path = Path(given) / (others.get("subfolder") or "") / (weight_name or "")
        if not path.exists():
            raise RequestError(f"load_lora_weights: {path} is not here; get it first, nothing is fetched from the hub")
        name = self._next_name() if adapter_name is None else adapter_name
        if name in self._files:
            raise RequestError(f"load_lora_weights: {name!r:.80} is loaded already; give another adapter_name")
        self._take({**self._files, name: path}, {name: 1.0})

    def set_adapters(self, adapter_names: str | Sequence[str], adapter_weights: Weights = None) -> None:
        """Use these LoRA with these weights, 1 where none is given, and no others, from the next call on. Raises
        RequestError."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if isinstance(adapter_weights, Mapping):
            raise RequestError("set_adapters: a bundle's LoRA has one weight for all parts of the model; give a number")
        weights = list(adapter_weights) if isinstance(adapter_weights, Sequence) else [adapter_weights] * len(names)
        if len(names) != len(weights):
            raise RequestError(f"set_adapters: {len(names)} names and {len(weights)} weights; give one for each")
        unknown = next((name for name in names if name not in self._files), None)
        if unknown is not None:
            known = ", ".join(self._files) or "none"
            raise RequestError(f"set_adapters: {unknown!r:.80} is not loaded; loaded: {known}")
        if any(isinstance(weight, Mapping) for weight in weights):
            raise RequestError("set_adapters: a bundle's LoRA has one weight for all parts of the model; give a number")
        chosen = {name: 1.0 if weight is None else weight for name, weight in zip(names, weights, strict=True)}
        self._take(self._files, chosen)

    def get_active_adapters(self) -> list[str]:
        """Names of the LoRA in use."""
        return list(self._active)

    def unload_lora_weights(self) -> None:
        """Forget all LoRA: the next call is that of the bundle as it was built."""
        self._take({}, {})

    def _take(self, files: dict[str, Path], active: dict[str, float]) -> None:
        """Files that are not active stay read, so that a change of weights reads none."""
        strengths = {name: active.get(name, 0.0) for name in files}
        if files != self._files:
            self.session.set_loras([(path, strengths[name]) for name, path in files.items()])
        elif files:
            self.session.set_lora_strengths(list(strengths.values()))
        self._files, self._active = files, active

    def _next_name(self) -> str:
        """As diffusers names those that are given none."""
        return next(name for number in range(len(self._files) + 1) if (name := f"default_{number}") not in self._files)
