"""Field types of the request schemas: bounds, text lengths, and OpenAI fields without effect.

Pydantic's own constraints are fixed when a class is defined, but most bounds here are the
operator's. A bound may therefore be the name of a `Settings` attribute: validation reads it from
the settings, which are pydantic's validation context, and `resolve_limits` writes it into the
OpenAPI document.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from emu3.inference.validation import MAX_SEED
from emu3.processing.video import MAX_FPS

JsonSchema = dict[str, Any]
SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")


def invalid(message: str, param: str = "") -> PydanticCustomError:
    """Return a validation error with a message of our own, about `param` within the model."""
    return PydanticCustomError("invalid", "{message}", {"message": message, "param": param})


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, where `high` may name a setting."""

    low: float
    high: float | str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchema:
        return {**handler(schema), "minimum": self.low, "maximum": self.high}

    def _check(self, value: float, info: ValidationInfo) -> float:
        high, name = _limit(self.high, info)
        if not self.low <= value <= high:
            raise invalid(f"must be between {_shown(self.low)} and {_shown(high)}{name}")
        return value


@dataclass(frozen=True)
class MaxLength:
    """A text of at most `length` characters, where `length` may name a setting."""

    length: int | str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchema:
        return {**handler(schema), "maxLength": self.length}

    def _check(self, value: str, info: ValidationInfo) -> str:
        length, name = _limit(self.length, info)
        if len(value) > length:
            raise invalid(f"{len(value)} characters, at most {length} are allowed{name}")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise invalid("contains an unpaired surrogate, which is not valid Unicode")
        return value


class Only:
    """A field of OpenAI's API that has no effect here: it must have one of the given values."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchema:
        return {"enum": [*self.values, None]}

    def _check(self, value: object) -> object:
        # The type counts too: True == 1 in Python.
        if not any(type(value) is type(each) and value == each for each in self.values):
            raise invalid(f"not supported; leave it out{self._choices()}")
        return value

    def _choices(self) -> str:
        return f" or use {', '.join(map(json.dumps, self.values))}" if self.values else ""


def resolve_limits(schema: Any, settings: object) -> Any:
    """Return a JSON schema with the operator's values in place of the names of settings."""
    if isinstance(schema, list):
        return [resolve_limits(each, settings) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: getattr(settings, value)
        if key in ("maximum", "maxLength") and isinstance(value, str)
        else resolve_limits(value, settings)
        for key, value in schema.items()
    }


def _limit(limit: float | str, info: ValidationInfo) -> tuple[float, str]:
    """Return the value of a limit, and its name for an error message."""
    if isinstance(limit, str):
        return getattr(info.context, limit), f" (limit {limit})"
    return limit, ""


def _shown(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


@dataclass(frozen=True)
class Upload:
    """A file from a multipart form; its name and declared type are ignored."""

    data: bytes


def _check_not_blank(value: str) -> str:
    if not value.strip():
        raise invalid("must not be blank")
    return value


def _check_temperature(value: float) -> float:
    if 0 < value < 0.01:
        raise invalid("must be 0 (greedy) or between 0.01 and 10")
    return value


def _parse_size(value: str, info: ValidationInfo) -> tuple[int, int] | None:
    """Return width and height in pixels; None for `auto`, the model's own size."""
    if value == "auto":
        return None
    match = SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise invalid("must be WIDTHxHEIGHT in pixels, such as 512x512, or auto")
    width, height = int(match[1]), int(match[2])
    limit, name = _limit("max_pixels", info)
    if width * height > limit:
        raise invalid(f"{width * height} pixels, at most {limit} are allowed{name}")
    return width, height


def parse_number(value: object) -> object:
    """Return the number that a text holds; any other value as it is."""
    try:
        number = json.loads(value) if isinstance(value, str) and len(value) <= 40 else value
    except (ValueError, RecursionError):
        return value
    return number if type(number) in (int, float) else value


def _parse_image_reference(value: object) -> Upload | str:
    if isinstance(value, dict) and value.get("file_id") is not None:
        raise invalid("this server stores no files; send the image itself", "file_id")
    if isinstance(value, dict) and value.keys() <= {"image_url", "file_id"}:
        value = value.get("image_url")
    if not isinstance(value, Upload | str):
        raise invalid("must be a file, a data URL, or an object with image_url")
    return value


def _parse_video_reference(value: object) -> Upload | str:
    if isinstance(value, dict) and value.keys() == {"id"}:
        value = value["id"]
    if not isinstance(value, Upload | str):
        raise invalid("must be a file, a data URL, or an object with the id of a video")
    return value


ModelName = Annotated[str, MaxLength(200)]
Text = Annotated[str, MaxLength("max_prompt")]
Prompt = Annotated[Text, AfterValidator(_check_not_blank)]
IgnoredText = Annotated[str, MaxLength(512)]
Seed = Annotated[int, Range(0, MAX_SEED)]
Temperature = Annotated[float, Range(0, 10), AfterValidator(_check_temperature)]
TopK = Annotated[int, Range(0, 2**31 - 1)]
GuidanceScale = Annotated[float, Range(0, "max_guidance")]
Fps = Annotated[float, Range(0.001, MAX_FPS)]
Seconds = Annotated[
    float,
    Range(0.001, 1e6),
    BeforeValidator(parse_number),  # OpenAI's clients send it as a string
    WithJsonSchema({"type": ["number", "string"]}),
]
Size = Annotated[
    tuple[int, int] | None,
    PlainValidator(_parse_size),
    WithJsonSchema({"type": "string", "pattern": rf"^(auto|{SIZE.pattern})$"}),
]
"""Width and height in pixels; None is the model's own size."""
ImageReference = Annotated[
    Upload | str,
    PlainValidator(_parse_image_reference),
    WithJsonSchema({"type": ["string", "object"]}),
]
"""A file, or the URL of an image."""
VideoReference = Annotated[
    Upload | str,
    PlainValidator(_parse_video_reference),
    WithJsonSchema({"type": ["string", "object"]}),
]
"""A file, the data URL of a video, or the id of a video job."""
