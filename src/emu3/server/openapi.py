"""The OpenAPI document: FastAPI's own, with the request schemas and the operator's limits.

Request schemas are added here because `RequestBody` reads them, not FastAPI (see there).
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from emu3.server.request_body import FORM, JSON
from emu3.server.schema_types import resolve_limits
from emu3.server.schemas import (
    ChatCompletionRequest,
    ErrorResponse,
    ImageGenerationRequest,
    RequestModel,
    VideoExtensionRequest,
    VideoGenerationRequest,
    VideoSourceExtensionRequest,
)
from emu3.server.settings import Settings

REQUEST_SCHEMAS: tuple[type[RequestModel], ...] = (
    ImageGenerationRequest,
    ChatCompletionRequest,
    VideoGenerationRequest,
    VideoExtensionRequest,
    VideoSourceExtensionRequest,
)
REFERENCE = "#/components/schemas/{model}"
DESCRIPTIONS = {
    400: "The request is invalid; the message names the field and the limit",
    401: "The API key is missing or wrong",
    403: "A browser sent the request for another host or from another origin",
    404: "Not found",
    405: "The method is not allowed on this path",
    413: "The body is too large",
    415: "The content type is not supported",
    429: "The queue is full; Retry-After says when to try again",
    500: "Internal error",
    503: "The server is stopping",
    504: "The request did not finish in time",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of error responses, for the `responses` of a route."""
    return {
        status: {"model": ErrorResponse, "description": DESCRIPTIONS[status]} for status in statuses
    }


COMMON_ERRORS = error_responses(400, 401, 403, 404, 405, 500)
WORK_ERRORS = error_responses(413, 415, 429, 503, 504)
EVENT_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def request_body(schema: type[RequestModel], form: bool = False) -> dict[str, Any]:
    """Return the `openapi_extra` of a route whose body `RequestBody(schema, form)` reads."""
    content = {"schema": {"$ref": REFERENCE.format(model=schema.__name__)}}
    media_types = [JSON, FORM] if form else [JSON]
    required = any(field.is_required() for field in schema.model_fields.values())
    return {
        "requestBody": {
            "required": required,
            "content": dict.fromkeys(media_types, content),
        }
    }


def openapi_document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Return the document for the app's routes under the limits of `settings`."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's; ours is 400
    _, requests = models_json_schema(
        [(schema, "validation") for schema in REQUEST_SCHEMAS], ref_template=REFERENCE
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= requests["$defs"]
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [] if settings.api_key is None else [{"key": []}]
    resolved: dict[str, Any] = resolve_limits(document, settings)
    return resolved
