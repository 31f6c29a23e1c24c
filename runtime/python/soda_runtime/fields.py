"""Methods that take a record, called with the record's fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, ParamSpec, TypeVar

_Self = TypeVar("_Self")
_Fields = ParamSpec("_Fields")
_Record = TypeVar("_Record")
_Result = TypeVar("_Result")


def takes_fields(
    make: Callable[_Fields, _Record],
) -> Callable[[Callable[[_Self, _Record], _Result]], Callable[Concatenate[_Self, _Fields], _Result]]:
    """A method of a record as one of what the record is made of."""

    def decorate(method: Callable[[_Self, _Record], _Result]) -> Callable[Concatenate[_Self, _Fields], _Result]:
        def call(self: _Self, /, *fields: _Fields.args, **by_name: _Fields.kwargs) -> _Result:
            return method(self, make(*fields, **by_name))

        own, given = inspect.signature(method), inspect.signature(make)
        parameters = [own.parameters["self"], *given.parameters.values()]
        update_wrapper(call, method, ("__module__", "__name__", "__qualname__", "__doc__"))
        call.__dict__["__signature__"] = own.replace(parameters=parameters)
        return call

    return decorate
