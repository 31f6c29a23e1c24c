"""Errors of the runtime. A SodaError is one the user can act on; its message says what, where and what to do."""

from __future__ import annotations


class SodaError(Exception):
    """Base of every error that the user can mend."""


class BundleError(SodaError):
    """A bundle folder is incomplete, damaged, hostile or of another format version."""


class EngineError(SodaError):
    """An engine library is missing, refuses an engine, or failed while running one."""


class RequestError(SodaError):
    """The arguments of a generation do not fit the opened bundle."""


class InternalError(Exception):
    """An invariant of this package is broken: a bug here, not something the user did."""
