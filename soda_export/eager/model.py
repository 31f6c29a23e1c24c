"""An unmodified diffusers module, called with every site's outputs handed over or replaced."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..models.arguments import forward_arguments, map_tensors
from ..models.family import Family
from ..models.identity import rows_per_sample
from ..models.load import LoadedModel
from ..models.paths import block_paths, site_modules
from ..models.spec import ModelSpec
from .sites import HookedSite, OnSite, OutputForm, SiteCall, replace_forward


class EagerModel:
    """A denoiser in evaluation mode. Its code is diffusers'; only while a call lasts are forwards of sites replaced.

    constants: argument of forward -> what its Constant makes. device, dtype: of the weights and what the module
    computes in. Latents and predictions are float32 on the device. products: type of the matrix products, where it is
    not that of the weights (autocast).
    """

    def __init__(
        self, module: nn.Module, family: Family, spec: ModelSpec, constants: Mapping[str, Any],
        device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.module = nn.Module.to(module, device).eval().requires_grad_(False)
        if any(parameter.dtype != dtype for parameter in module.parameters()):
            nn.Module.to(module, dtype)  # diffusers' own prints
        self.family, self.spec = family, spec
        self.device, self.dtype = torch.device(device), dtype
        self.products: torch.dtype | None = None
        self._constants = map_tensors(constants, self._placed)
        found = {site.path: site for site in site_modules(module, family)}
        missing = [site.name for site in spec.sites if site.name not in found]
        if missing:
            raise ModelError(f"{spec.name}: {type(module).__name__} has no {missing[0]}, which is one of its sites")
        self._sites = [HookedSite(found[site.name]) for site in spec.sites]
        modules = dict(module.named_modules())
        names = [site.name for site in spec.sites]
        self._blocks = [
            (modules[path], OutputForm(path), {k for k, name in enumerate(names) if name.startswith(f"{path}.")})
            for path in block_paths(modules, family) if path not in names
        ]  # fmt: skip

    @classmethod
    def of(
        cls, loaded: LoadedModel, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> EagerModel:
        """A loaded model with its weights; in float32 on the processor it shares `loaded.module`."""
        shared = torch.device(device).type == "cpu" and dtype == torch.float32
        module = loaded.module if shared else loaded.build(dtype)
        return cls(module, loaded.family, loaded.spec, loaded.constants, device, dtype)

    def with_products(self, dtype: torch.dtype | None) -> EagerModel:
        """The same module with matrix products in dtype; None: in that of the weights."""
        other = copy.copy(self)
        other.products = dtype
        return other

    def rows_for(self, guidance: float) -> int:
        """Rows of the batch for each sample: 2 where guidance needs a prediction without the condition, too."""
        return rows_per_sample(guidance) if self.family.guidance == "rows" else 1

    def place(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs on the device, floats as the module computes."""
        return {name: self._placed(tensor) for name, tensor in inputs.items()}

    @torch.no_grad()
    def call(
        self, latents: Tensor, timestep: float, inputs: Mapping[str, Tensor], on_site: OnSite | None = None,
        given: Collection[int] = (),
    ) -> Tensor:  # fmt: skip
        """The prediction: float32 [R, *prediction_shape].

        latents: [R, *latent_shape]. timestep: as the scheduler counts. inputs: by port, [R, ...]. on_site gives every
        site's outputs, in the order of computation; None computes everything. given: sites whose outputs it gives
        whatever their inputs are: what lies inside them does not run and is not asked about.
        """
        dtype = torch.int64 if timestep == int(timestep) else torch.float32  # schedulers of whole timesteps give int64
        times = torch.full((latents.shape[0],), timestep, dtype=dtype, device=self.device)
        arguments = forward_arguments(self.family, self._placed(latents), times, self.place(inputs), self._constants)
        idle = {k for k, outer in enumerate(self.spec.containers) if any(site in given for site in outer)}
        plain = contextlib.nullcontext()
        products = plain if self.products is None else torch.autocast(self.device.type, self.products)
        with self._hooked(on_site, idle, latents.shape[0]), products:
            prediction: Tensor = self.module(**arguments, return_dict=False)[0]
        return prediction.float()

    @contextlib.contextmanager
    def _hooked(self, on_site: OnSite | None, idle: Collection[int], rows: int) -> Iterator[None]:
        undo: list[Callable[[], None]] = []
        try:
            for block, form, inside in self._blocks:
                is_idle = bool(inside) and inside.issubset(idle)
                hook = _skipping(form, rows) if is_idle else _learning(block.forward, form)
                undo.append(replace_forward(block, hook))
            for k, site in enumerate(self._sites):
                hook = _skipping(site.form, rows) if k in idle else _supplying(k, site, on_site or _compute)
                undo.append(replace_forward(site.module, hook))
            yield
        finally:
            for restore in reversed(undo):
                restore()

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)


def _compute(k: int, call: SiteCall) -> tuple[Tensor, ...]:
    return call.compute()


def _supplying(k: int, site: HookedSite, on_site: OnSite) -> Callable[..., Any]:
    original = site.module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        call = SiteCall(site, original, args, kwargs)
        return call.packed(on_site(k, call))

    return forward


def _learning(original: Callable[..., Any], form: OutputForm) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        form.learn(output)
        return output

    return forward


def _skipping(form: OutputForm, rows: int) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return form.filled(rows)

    return forward
