"""A bundle in the place of a pipeline's denoiser: `pipe.transformer = SodaTransformer("engines/...")`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from numpy.typing import NDArray
from soda_runtime.backends import DeviceOptions
from soda_runtime.lora import LoraArgument
from soda_runtime.manifest import LabelPort
from soda_runtime.signature import BASELINE_COEFFICIENTS, COEFFICIENTS
from torch import Tensor, nn

from ..errors import RequestError
from .calls import CallReader, ModuleCall, OtherSize
from .correction import Correction
from .predictor import PredictionBundle, Predictor, open_predictions
from .progress import Progress


class SodaTransformer(nn.Module):
    """The denoiser of a bundle, called as the diffusers module that it was made of: same arguments, same outputs.

    It gives the model's prediction alone, so the pipeline's scheduler, guidance and callbacks do their part as ever.
    Calls must follow the bundle's schedule: its timesteps in their order, one call a step with all rows of guidance in
    it, latents of any of the bundle's sizes. A run begins with the first timestep, or after reset(). Where the schedule
    brings coefficients of its own, the prediction is the one with which the bundle's sampler goes where these lead
    (correction.py).

    Not for several threads at a time. Raises BundleError and EngineError when it is opened, RequestError for calls that
    the bundle cannot follow.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, backend: str = "", device: str = "auto", threads: int = 0,
        options: DeviceOptions = DeviceOptions(), lora: Sequence[LoraArgument] = (),
    ) -> None:  # fmt: skip
        """Arguments as for soda_runtime.Bundle.open."""
        super().__init__()
        opened = open_predictions(path, backend=backend, device=device, threads=threads, options=options, lora=lora)
        sized = [opened.at(size) for size in opened.sizes] or [opened]
        self._opened, self._sizes = opened, [(each, CallReader(each.record, str(each.folder))) for each in sized]
        self.config = FrozenDict(opened.record.config)
        self._streams: dict[str, _Stream] = {}
        self._stream = ""
        self.register_buffer("_place", torch.zeros(0), persistent=False)  # what .to() moves

    @property
    def dtype(self) -> torch.dtype:
        """Type that the pipeline works in; the bundle's own is inside."""
        return self.get_buffer("_place").dtype

    @property
    def device(self) -> torch.device:
        """Where the pipeline has its latents; the bundle's engines run on the device that it was opened for."""
        return self.get_buffer("_place").device

    @property
    def add_embedding(self) -> Any:
        """What Stable Diffusion XL's pipelines look up the number of time ids in."""
        width = self.config.get("projection_class_embeddings_input_dim")
        if width is None:
            raise AttributeError("add_embedding")
        return SimpleNamespace(linear_1=SimpleNamespace(in_features=width))

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        """Calls within belong to the run of that name: pipelines that call the model once for each half of guidance say
        which is which."""
        before, self._stream = self._stream, name
        try:
            yield
        finally:
            self._stream = before

    def set_lora_strengths(self, strengths: Sequence[float]) -> None:
        """Other strengths of the LoRA files that it was opened with, from the next run on. Raises RequestError."""
        self._opened.set_lora_strengths(strengths)

    def load_lora_adapter(self, *_: Any, **__: Any) -> None:
        """What a pipeline's load_lora_weights calls. Raises RequestError."""
        raise RequestError(
            f"{self._opened.folder}: the bundle takes LoRA files, not a pipeline's adapters: open it with "
            "SodaTransformer(..., lora=[(file, strength)]), and give its text encoders' part to the pipeline alone"
        )

    def reset(self) -> None:
        """Forget the runs that are under way: the next call begins one."""
        for stream in self._streams.values():
            stream.progress.reset()

    def close(self) -> None:
        """Free buffers and engines."""
        for stream in self._streams.values():
            stream.predictor.close()
        self._streams.clear()
        self._opened.close()

    @torch.no_grad()
    def forward(self, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        """Arguments and result of the original's forward: the prediction [R, C or 2C, ...] in the latents' type."""
        bundle, call = self._read(args, kwargs)
        stream = self._streams.get(self._stream)
        if stream is None or stream.bundle is not bundle:
            if stream is not None:  # free the buffers of the other size before new ones are allocated
                stream.predictor.close()
            stream = self._streams[self._stream] = _Stream(bundle)
        made = stream.predict(call).to(device=call.latents.device, dtype=call.latents.dtype)
        if not return_dict:
            return (made,)
        is_unet = self._opened.record.kind == "UNet2DConditionModel"
        return UNet2DConditionOutput(sample=made) if is_unet else Transformer2DModelOutput(sample=made)

    def _read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[PredictionBundle, ModuleCall]:
        """The call, and the bundle at the size that it is for. Raises RequestError."""
        others: list[OtherSize] = []
        for bundle, reader in self._sizes:
            try:
                return bundle, reader.read(args, kwargs)
            except OtherSize as other:
                others.append(other)
        if len(others) == 1:
            raise others[0]
        known = ", ".join("{}x{}".format(*size) for size in self._opened.sizes)
        raise RequestError(
            f"{self._opened.folder}: the call is for another size than those of the bundle; give the pipeline a height "
            f"and width of {known} (height x width)"
        )


class _Stream:
    """One run after another of a bundle's schedule, with buffers of its own."""

    def __init__(self, bundle: PredictionBundle) -> None:
        self.bundle, self._rows = bundle, 0
        self._given: dict[str, Tensor] = {}
        manifest = bundle.manifest
        sampler = manifest.sampler
        asked = sampler.steps - (sampler.name == "pndm")  # which calls the model once more
        self.progress = Progress(sampler.timesteps, str(bundle.folder), sampler.name, asked)
        self.predictor = Predictor(bundle)
        self._pairs = manifest.rows_per_sample == 2
        self._labels = any(isinstance(port, LabelPort) for port in manifest.ports)
        self._correction: Correction | None = None
        if sampler.fitted:
            tables = bundle.tables
            self._correction = Correction(tables[COEFFICIENTS], tables[BASELINE_COEFFICIENTS], sampler.state_size)
        self._corrects = False

    def predict(self, call: ModuleCall) -> Tensor:
        """[R, C or 2C, ...] for a call's rows, in their order."""
        rows, latents = len(call.latents), call.latents.detach().cpu().float()
        if self._pairs:
            self._require_pairs(latents)
        step, begins = self.progress.take(call.timestep, call.precision)
        try:
            self._take_ports(call, rows, step, begins)
            samples = latents[: rows // 2] if self._pairs else latents
            raw = None
            if self.predictor.runs_model(step):
                raw = self._in_order(self.predictor.predict(step, samples.numpy()))
            if self._corrects and self._correction is not None:
                return self._correction.correct(step, latents, raw)
            assert raw is not None
            return raw
        except BaseException:
            self.progress.reset()
            raise

    def _take_ports(self, call: ModuleCall, rows: int, step: int, begins: bool) -> None:
        if not begins and rows != self._rows:
            raise RequestError(
                f"{self.bundle.folder}: {rows} rows at step {step}, {self._rows} before; a run keeps its rows"
            )
        changed = begins or any(not _same(value, self._given[name]) for name, value in call.ports.items())
        if not changed:
            return
        ports = {name: self._values(value) for name, value in call.ports.items()}
        if begins:
            self._rows = rows
            self.predictor.begin(rows, step, ports)
            # a run that starts from latents takes the sampler's own coefficients (BUNDLE.md, 8.4)
            self._corrects = self._correction is not None and step == 0
            if self._correction is not None:
                self._correction.begin(rows, self.bundle.manifest.model.latent_shape)
        else:
            self.predictor.give(ports)
        self._given = dict(call.ports)

    def _require_pairs(self, latents: Tensor) -> None:
        half = len(latents) // 2
        if len(latents) % 2 or not torch.equal(latents[:half], latents[half:]):
            raise RequestError(
                f"{self.bundle.folder}: was built with guidance, so it takes each sample twice in one call, and the "
                "pipeline does not give them so; give it guidance_scale above 1, or build with --guidance 1"
            )

    def _values(self, value: Tensor) -> NDArray[Any]:
        """Rows of a port in the bundle's order."""
        own = self._in_order(value.detach().cpu())
        return own.numpy().astype(np.int64) if not own.is_floating_point() else own.float().numpy()

    def _in_order(self, rows: Tensor) -> Tensor:
        """From the pipeline's order to the bundle's and back: bundles have the conditional rows first, pipelines last,
        but for those of labels."""
        return rows.roll(len(rows) // 2, 0) if self._pairs and not self._labels else rows


def _same(found: Tensor, before: Tensor) -> bool:
    return found is before or (found.shape == before.shape and bool(torch.equal(found, before)))
