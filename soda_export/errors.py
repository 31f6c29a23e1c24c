"""Errors of the builder, in the families of the runtime's. A SodaError is printed as one line and exits with 2."""

from __future__ import annotations

from soda_runtime.errors import BundleError, EngineError, InternalError, RequestError, SodaError

__all__ = [
    "BundleError", "CompileError", "EngineError", "ExportError", "InternalError", "ModelError", "PlanError",
    "RequestError", "SodaError", "UsageError", "first_line",
]  # fmt: skip


class ModelError(SodaError):
    """A model folder or its scheduler cannot be used."""


class PlanError(SodaError):
    """A plan, map or prior is malformed, does not fit the model, or cannot meet the budget."""


class ExportError(SodaError):
    """A program cannot be expressed as an ONNX graph."""


class CompileError(SodaError):
    """An engine library refuses a program or is not installed."""


class UsageError(SodaError):
    """Command-line arguments that do not go together."""


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
