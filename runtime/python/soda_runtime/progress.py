"""What a request's callback is told, and how calls take a request's fields as arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .request import Request

if TYPE_CHECKING:
    from .session import Session

_Self = TypeVar("_Self")
_Fields = ParamSpec("_Fields")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class StepDone:
    """A step that has just been run, `index` of `num_steps`. What it gives costs nothing until it is asked for, and can
    be asked for while the callback runs."""

    session: Session
    index: int
    num_steps: int

    def latents(self) -> NDArray[np.float32]:
        """The latents after this step, as noisy as they are: [B, *latent_shape]."""
        return self._session().latents()

    def preview(self) -> NDArray[np.float32]:
        """Session.preview of this step."""
        return self._session().preview()

    def preview_result(self) -> NDArray[np.float32]:
        """Session.preview_result of this step."""
        return self._session().preview_result()

    def cancel(self) -> None:
        """Session.cancel."""
        self._session().cancel()

    def _session(self) -> Session:
        if self.session.next_step != self.index + 1:
            raise RequestError(f"step {self.index} is over; ask while on_step runs")
        return self.session


def takes_fields(
    make: Callable[_Fields, Request],
) -> Callable[[Callable[[_Self, Request], _Result]], Callable[Concatenate[_Self, _Fields], _Result]]:
    """A method of a request as one of the request's fields."""

    def decorate(method: Callable[[_Self, Request], _Result]) -> Callable[Concatenate[_Self, _Fields], _Result]:
        def call(self: _Self, /, *fields: _Fields.args, **by_name: _Fields.kwargs) -> _Result:
            return method(self, make(*fields, **by_name))

        own, given = inspect.signature(method), inspect.signature(make)
        parameters = [own.parameters["self"], *given.parameters.values()]
        update_wrapper(call, method, ("__module__", "__name__", "__qualname__", "__doc__"))
        call.__dict__["__signature__"] = own.replace(parameters=parameters)
        return call

    return decorate
