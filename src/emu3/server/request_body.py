"""Request bodies: JSON or multipart form to a validated schema.

FastAPI would parse the body itself, but it passes no validation context (the operator's limits),
accepts one content type per route, and answers a body that is too large in plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from emu3.server.errors import APIError, invalid_request, validation_error
from emu3.server.schema_types import Upload
from emu3.server.settings import Settings

JSON, FORM = "application/json", "multipart/form-data"
NESTED_FIELD = re.compile(r"([^\[\]]+)\[([^\[\]]+)\]")
MAX_FORM_FIELDS, MAX_FORM_FILES = 64, 4

Schema = TypeVar("Schema", bound=BaseModel)


class RequestBody(Generic[Schema]):
    """A FastAPI dependency: the body as `schema`, from JSON or, if `form`, a multipart form."""

    def __init__(self, schema: type[Schema], form: bool = False) -> None:
        self.schema, self.form = schema, form

    async def __call__(self, request: Request) -> Schema:
        """Read, parse and validate the body. Raises APIError."""
        settings: Settings = request.app.state.settings
        content_type = request.headers.get("content-type", "")
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type == JSON:
            values = parse_json(await read_body(request, settings.max_body))
            body = validate(self.schema, values, settings)
        elif media_type == FORM and self.form:
            values = await parse_form(await read_body(request, settings.max_body), content_type)
            body = validate(self.schema, values, settings, strict=False)
        else:
            accepted = f"{JSON} or {FORM}" if self.form else JSON
            raise APIError(415, f"unsupported content type; send Content-Type: {accepted}")
        check_model(getattr(body, "model", None), settings)
        return body


def validate(
    schema: type[Schema], values: Mapping[str, Any], settings: Settings, strict: bool = True
) -> Schema:
    """Validate the fields of a request; without `strict`, texts may stand for numbers.

    Raises APIError about the first error.
    """
    try:
        return schema.model_validate(values, context=settings, strict=strict)
    except ValidationError as error:
        raise validation_error(error.errors()[0]) from None


def check_model(name: str | None, settings: Settings) -> None:
    """Raise APIError if a request names a model that is not served."""
    if name is not None and name != settings.model:
        message = f"model: not served here; the model of this server is {settings.model!r}"
        raise APIError(404, message, "model", "model_not_found")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the whole body without ever holding more than `limit` bytes. Raises APIError."""
    too_large = APIError(413, f"the body is larger than {limit} bytes (limit max_body)")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise too_large
    return bytes(data)


def parse_json(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`. Raises APIError on anything else, NaN and Infinity too."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise invalid_request(None, "the body is nested too deeply") from None
    except ValueError as error:  # also invalid UTF-8, and numbers of thousands of digits
        raise invalid_request(None, f"the body is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise invalid_request(None, "the body must be a JSON object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


async def parse_form(data: bytes, content_type: str) -> dict[str, Any]:
    """Return the fields of a multipart form: texts, `Upload`s, and `a[b]` as field b of object a.

    Raises APIError on an invalid form or a repeated field.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield data

    parser = MultiPartParser(
        Headers({"content-type": content_type}),
        stream(),
        max_files=MAX_FORM_FILES,
        max_fields=MAX_FORM_FIELDS,
        max_part_size=max(1, len(data)),
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        message = f"the body is not valid {FORM}: {error.message[:200]}"
        raise invalid_request(None, message) from None
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        _set_field(
            fields, name, Upload(await value.read()) if isinstance(value, UploadFile) else value
        )
    await form.close()
    return fields


def _set_field(fields: dict[str, Any], name: str, value: object) -> None:
    nested = NESTED_FIELD.fullmatch(name)
    target = fields.setdefault(nested[1], {}) if nested else fields
    key = nested[2] if nested else name
    if not isinstance(target, dict) or key in target:
        raise invalid_request(name, "given more than once")
    target[key] = value
