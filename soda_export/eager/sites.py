"""A call of a site's module, held up: who asks for its inputs, computes it, renews some tokens or gives its outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import InternalError
from ..models.arguments import first_argument, map_tensors
from ..models.paths import SiteModule
from .tokens import gather_tokens

OnSite = Callable[[int, "SiteCall"], tuple[Tensor, ...]]
"""(number of the site, its call) -> the site's outputs, as many and as large as those that `compute` gives."""


class OutputForm:
    """What a module returned once: where tensors are and where None, so that a call that computes nothing can return
    the like."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._output: Any = None

    def learn(self, output: Any) -> None:
        """Remember the form; shapes but for the rows, no values."""
        if self._output is None:
            self._output = map_tensors(output, lambda tensor: tensor.new_zeros(()).expand(1, *tensor.shape[1:]))

    def filled(self, rows: int) -> Any:
        """Zeros of that form for a call of `rows` rows; each tensor occupies one number."""
        if self._output is None:
            raise InternalError(f"{self._path}: its output was given before it was ever computed")
        return map_tensors(self._output, lambda tensor: tensor.expand(rows, *tensor.shape[1:]))


class HookedSite:
    """A site's module, its own forward and what its outputs look like."""

    def __init__(self, site: SiteModule) -> None:
        self.path, self.module, self.rule = site.path, site.module, site.rule
        self.form = OutputForm(site.path)
        self.signature = inspect.signature(site.module.forward)
        self.tokens = first_argument(site.module)


class SiteCall:
    """One call of a site's module."""

    def __init__(
        self, site: HookedSite, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._site, self._forward, self._args, self._kwargs = site, forward, args, kwargs
        self._computed: Any = None

    @property
    def inputs(self) -> Tensor:
        """The first tensor argument: [R, N, D] for a module of tokens."""
        tensor: Tensor = self._args[0] if self._args else self._kwargs[self._site.tokens]
        return tensor

    def compute(self) -> tuple[Tensor, ...]:
        """The site's outputs; sites inside are asked about in turn."""
        self._computed = self._forward(*self._args, **self._kwargs)
        self._site.form.learn(self._computed)
        if not self._site.rule.outputs:
            return (self._computed,)
        return tuple(self._computed[place] for place in self._places(self._computed))

    def renew(self, indices: Tensor) -> Tensor:
        """Outputs [R, keep, D] of the tokens at indices [R, keep], as SiteRule.renew says how."""
        site, inputs = self._site, self.inputs
        if not site.rule.renew:
            raise InternalError(f"{site.path}: its tokens cannot be renewed singly")
        bound = site.signature.bind(*self._args, **self._kwargs)
        bound.arguments[site.tokens] = gather_tokens(inputs, indices)
        if site.rule.renew == "queries":
            bound.arguments["encoder_hidden_states"] = inputs
        made = self._forward(*bound.args, **bound.kwargs)
        fresh: Tensor = made[0] if isinstance(made, tuple) else made
        return fresh

    def packed(self, values: Sequence[Tensor]) -> Any:
        """What the module returns where its outputs are `values`."""
        if not self._site.rule.outputs:
            (value,) = values
            return value
        whole = self._site.form.filled(values[0].shape[0]) if self._computed is None else self._computed
        result = list(whole)
        for place, value in zip(self._places(whole), values, strict=True):
            result[place] = value
        return tuple(result)

    def _places(self, output: Sequence[Any]) -> list[int]:
        return [place for place in self._site.rule.outputs if output[place] is not None]


def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Replace a module's forward on this instance alone; the result undoes it."""
    before = module.__dict__.get("forward")
    module.forward = forward

    def undo() -> None:
        if before is None:
            del module.forward
        else:
            module.forward = before

    return undo
