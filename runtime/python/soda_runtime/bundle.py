"""A bundle folder into sessions that play it."""

from __future__ import annotations

from .opened import OpenedBundle
from .session import Session


class Bundle(OpenedBundle):
    """An opened bundle: thread-safe, shared by any number of sessions."""

    def session(self) -> Session:
        """A new session: its own cache arena and sampler state, for one thread at a time."""
        return Session(self)
