"""Errors of the runtime. A SodaError is one the user can act on; its message says what, where and what to do."""

from __future__ import annotations

from .printable import printable


class SodaError(Exception):
    """Base of every error that the user can mend. Its text is one line, whatever a path or a library says."""

    def __str__(self) -> str:
        return printable(super().__str__())


class BundleError(SodaError):
    """A bundle folder is incomplete, damaged, hostile or of another format version."""


class EngineError(SodaError):
    """An engine library is missing, refuses an engine, or failed while running one."""


class RequestError(SodaError):
    """The arguments of a generation do not fit the opened bundle."""


class Cancelled(SodaError):
    """The generation was cancelled, by `Session.cancel` or by a callback; the session takes another one."""


class InternalError(Exception):
    """An invariant of this package is broken: a bug here, not something the user did."""
