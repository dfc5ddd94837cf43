"""API errors in the JSON shape that OpenAI's clients read, and the exceptions that become them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from fastapi import FastAPI

INTERNAL_ERROR = "internal server error; see the server's log"
CLIENT_CLOSED_REQUEST = 499  # as in nginx; only the log and the metrics see it
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}
PYDANTIC_MESSAGES = {
    "missing": "required",
    "extra_forbidden": "unknown field",
    "string_type": "must be a string",
    "string_unicode": "not valid Unicode",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be an integer of fewer digits",
    "float_type": "must be a finite number",
    "float_parsing": "must be a finite number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
    "literal_error": "not supported; use {expected}",
    "too_short": "must have at least {min_length} item(s)",
    "too_long": "must have at most {max_length} items",
}
"""Messages by pydantic's type of error; others keep pydantic's own message."""


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


class ClientDisconnected(Exception):
    """The client closed the connection before the response was complete."""


def queue_full(message: str, retry_after: int) -> APIError:
    """Return the error for a full queue; clients try again after `retry_after` seconds."""
    headers = {"Retry-After": str(retry_after)}
    return APIError(429, message, code="queue_full", headers=headers)


def invalid_request(param: str | None, message: str, code: str | None = None) -> APIError:
    """Return a 400 error about one field of the request, or about all of it if `param` is None."""
    if param is not None:  # it may be the client's own text
        param = param if len(param) <= 100 else f"{param[:100]}…"
        param = param.encode("utf-8", "replace").decode()
    return APIError(400, f"{param}: {message}" if param else message, param, code)


def validation_error(error: Mapping[str, Any]) -> APIError:
    """Return pydantic's description of a validation error as one line about one field."""
    context = error.get("ctx", {})
    template = PYDANTIC_MESSAGES.get(error["type"])
    message = error["msg"] if template is None else template.format(**context)
    param = field_path((*error["loc"], *filter(None, [context.get("param")])))
    code = "unknown_parameter" if error["type"] == "extra_forbidden" else None
    return invalid_request(param or None, message, code)


def field_path(loc: tuple[int | str, ...]) -> str:
    """Return pydantic's location of a field as a path such as `messages[0].content[1].text`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return "".join(parts).removeprefix(".")


def add_exception_handlers(app: FastAPI) -> None:
    """Make every error of the app a JSON response of one shape."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    def response(error: APIError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, dict(error.headers))

    @app.exception_handler(APIError)
    async def on_api_error(request: Request, error: APIError) -> JSONResponse:
        return response(error)

    @app.exception_handler(RequestValidationError)  # of queries; see request_body.py for bodies
    async def on_invalid_query(request: Request, error: RequestValidationError) -> JSONResponse:
        first = dict(error.errors()[0])
        first["loc"] = first["loc"][1:]  # behind "query" or "path"
        return response(validation_error(first))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        messages = {404: "no such path", 405: "method not allowed on this path"}
        message = messages.get(error.status_code, str(error.detail))
        return response(APIError(error.status_code, message, headers=error.headers or {}))

    @app.exception_handler(ClientDisconnected)
    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(request: Request, error: Exception) -> JSONResponse:
        return response(APIError(CLIENT_CLOSED_REQUEST, "the client closed the connection"))

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        return response(APIError(500, INTERNAL_ERROR))
