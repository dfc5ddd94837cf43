"""What goes wrong, in the one shape that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


@dataclass(eq=False)  # an exception has to be hashable
class Problem(Exception):
    """An answer that is an error: status, and a message that says what to do."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`."""
        said = {
            "message": self.message,
            "type": TYPES.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": said}


def bad(param: str | None, message: str, code: str | None = None) -> Problem:
    """A 400 about one field."""
    return Problem(400, f"{param}: {message}" if param else message, param, code)
