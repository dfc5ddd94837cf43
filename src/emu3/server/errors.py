"""API errors in the JSON shape that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ERROR_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


@dataclass(eq=False)  # an exception has to be hashable
class APIError(Exception):
    """An error response: the status, and a message that says what to do about it."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return `{"error": {"message", "type", "param", "code"}}`."""
        error = {
            "message": self.message,
            "type": ERROR_TYPES.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def invalid_request(param: str | None, message: str, code: str | None = None) -> APIError:
    """Return a 400 error about one field of the request, or about all of it if `param` is None."""
    return APIError(400, f"{param}: {message}" if param else message, param, code)
