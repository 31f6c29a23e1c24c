"""Refusals in the shape that OpenAI's clients read: a status, a type, a message, and the field that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FAULT = "a fault of this server; its log says more"


@dataclass(eq=False)  # not frozen: who catches an exception sets its traceback
class ApiError(Exception):
    """A refusal. param: the field that is wrong, "" for none. retry_seconds: when to come again, 0: not at all."""

    status: int
    message: str
    param: str = ""
    code: str = ""
    retry_seconds: int = 0

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI answers."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        told = {"message": self.message, "type": kind, "param": self.param or None, "code": self.code or None}
        return {"error": told}

    @property
    def headers(self) -> dict[str, str]:
        """What a client should know before it reads the body."""
        return {"Retry-After": str(self.retry_seconds)} if self.retry_seconds else {}
