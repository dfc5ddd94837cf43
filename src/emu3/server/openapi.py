"""The server's description of itself, as OpenAPI has it.

Bodies are not described a second time: the readers that check them are run once over a small
example, and what they ask for is written down. So a bound is said where it is checked, and nowhere
else. By hand are only the shapes of nested fields, and the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from emu3.inference.async_engine import AsyncEngine
from emu3.processing.document_format import VideoCodes
from emu3.server.fields import ANY, NAME, SHORT, Fields
from emu3.server.routes import chat, images, videos
from emu3.server.routes.chat import MAX_MESSAGES
from emu3.server.settings import Settings

Schema = dict[str, Any]
Read = Callable[[Fields], object]

TEXT: Schema = {"type": "string"}
SAID = {
    400: "Something is wrong with it; the message says what",
    401: "A key is needed",
    404: "There is no such thing",
    405: "This path does not know that method",
    413: "More bytes than a body may have",
    415: "A content type that is not read",
    429: "The queue is full; Retry-After says when to come again",
    500: "A bug",
    503: "The server is stopping",
    504: "Not done in time",
}
SIZE = f"^(auto|{images.SIZE.pattern})$"
REFUSALS = (400, 401, 404, 405, 500)  # of all paths
OF_BODIES = (*REFUSALS, 413, 415)
OF_WORK = (*OF_BODIES, 429, 503, 504)
JSON, FORM, EVENTS = "application/json", "multipart/form-data", "text/event-stream"


class Sketch(Fields):
    """Fields that write down what is asked of them: `asked`, a schema for each name."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.asked: dict[str, Schema] = {}

    def take(self, name: str) -> Any:
        """As it is; of what kind, whoever takes it knows."""
        self.asked.setdefault(name, {})
        return super().take(name)

    def text(self, name: str, most: int, limit: str = "") -> str | None:
        """A string."""
        self.asked[name] = {"type": ["string", "null"], "maxLength": most}
        return super().text(name, most, limit)

    def integer(self, name: str, least: int, most: int, limit: str = "") -> int | None:
        """A whole number."""
        self.asked[name] = {"type": ["integer", "null"], "minimum": least, "maximum": most}
        return super().integer(name, least, most, limit)

    def number(self, name: str, least: float, most: float, limit: str = "") -> float | None:
        """A number."""
        self.asked[name] = {"type": ["number", "null"], "minimum": least, "maximum": most}
        return super().number(name, least, most, limit)

    def flag(self, name: str) -> bool:
        """True or false."""
        self.asked[name] = {"type": ["boolean", "null"]}
        return super().flag(name)

    def choice(self, name: str, choices: Collection[str], default: str) -> str:
        """One of some words."""
        self.asked[name] = {"enum": [*choices, None], "default": default}
        return super().choice(name, choices, default)

    def ignore(self, harmless: Mapping[str, object]) -> None:
        """Those that change nothing."""
        super().ignore(harmless)
        for name, allowed in harmless.items():
            if isinstance(allowed, tuple):
                self.asked[name] = {"enum": [*allowed, None]}
            elif allowed is ANY:
                self.asked[name] = {"type": ["string", "null"], "maxLength": SHORT}


def body_of(
    read: Read, needed: Mapping[str, Any], given: Mapping[str, Any], **shapes: Schema
) -> Schema:
    """What `read` takes, by an example within every limit: fields that are `needed`, and others
    that are `given`. To what it asks for, `shapes` are added.
    """
    sketch = Sketch({**needed, **given})
    sketch.text("model", NAME)
    read(sketch)
    said = {name: schema | shapes.get(name, {}) for name, schema in sketch.asked.items()}
    for name in needed:
        if isinstance(said[name].get("type"), list):
            said[name]["type"] = said[name]["type"][0]  # one that is needed cannot be null
    body = {"type": "object", "properties": said, "additionalProperties": False}
    return body | ({"required": list(needed)} if needed else {})


def document(engine: AsyncEngine, settings: Settings) -> Schema:
    """The whole description, OpenAPI 3.1."""
    draw = body_of(
        lambda fields: images.read_order(fields, engine, settings),
        {"prompt": "x"},
        {},
        prompt={"minLength": 1},
        size={"pattern": SIZE},
    )
    ask = body_of(
        lambda fields: chat.read_question(fields, settings),
        {"messages": [{"role": "user", "content": "x"}]},
        {},
        messages=messages(settings),
        stream_options=object_of({"include_usage": {"type": ["boolean", "null"]}}),
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "emu3", "version": "1", "description": "Pictures, answers, videos."},
        "components": {
            "schemas": {"Error": error()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [] if settings.api_key is None else [{"key": []}],
        "paths": {
            "/v1/images/generations": {
                "post": work("Words to pictures", draw, of("created", "data", "usage"))
            },
            "/v1/images/edits": {"post": told("Refused, with the reason", None, REFUSALS)},
            "/v1/chat/completions": {
                "post": work("Questions to answers", ask, of("id", "choices", "usage"))
            },
            **of_videos(engine, settings),
            **of_the_server(),
        },
    }


def of_videos(engine: AsyncEngine, settings: Settings) -> Schema:
    """Paths of videos."""
    clip, short = VideoCodes(torch.empty(0, 0, 0), 8.0, 0), {"seconds": 0.125}
    lasts = {"type": ["number", "string", "null"]}
    film = body_of(
        lambda fields: videos.read_order(fields, engine, settings),
        {"prompt": "x"},
        short,
        prompt={"minLength": 1},
        size={"pattern": SIZE},
        seconds=lasts,
        input_reference={"type": ["string", "object", "null"]},
    )
    longer = body_of(
        lambda fields: videos.read_extension(fields, engine, settings, clip, "x"),
        {},
        short,
        seconds=lasts,
    )
    named = {**longer["properties"], "video": {"type": ["string", "object"]}}
    other = longer | {"properties": named, "required": ["video"]}
    job, name = of("id", "object", "status", "progress"), parameter("name", "path", TEXT)
    query: Schema = {
        "limit": {"type": "integer"},
        "order": {"enum": ["asc", "desc"]},
        "after": TEXT,
    }
    listed = [parameter(key, "query", value) for key, value in query.items()]
    variant = {"enum": list(videos.VARIANTS)}
    clips: Schema = {"video/mp4": {}, "image/webp": {}, "image/jpeg": {}}
    return {
        "/v1/videos": {
            "post": work("Words to a job that makes a video", film, job, FORM),
            "get": told("All jobs, page by page", {JSON: of("object", "data")}, REFUSALS, *listed),
        },
        "/v1/videos/extensions": {"post": work("More of a clip", other, job, FORM)},
        "/v1/videos/edits": {"post": told("Refused, with the reason", None, REFUSALS)},
        "/v1/videos/characters": {"post": told("Refused, with the reason", None, REFUSALS)},
        "/v1/videos/{name}": {
            "get": told("A job", {JSON: job}, REFUSALS, name),
            "delete": told("A job less", {JSON: of("id", "deleted")}, REFUSALS, name),
        },
        "/v1/videos/{name}/content": {
            "get": told(
                "The clip", clips, REFUSALS, name, parameter("variant", "query", variant), part=True
            )
        },
        "/v1/videos/{name}/extend": {"post": work("More of a video", longer, job, FORM, name)},
        "/v1/videos/{name}/remix": {"post": told("Refused, with the reason", None, REFUSALS, name)},
    }


def of_the_server() -> Schema:
    """Paths that tell of the server itself."""
    name, state = parameter("name", "path", TEXT), {JSON: of("status")}
    return {
        "/v1/models": {"get": told("The model", {JSON: of("object", "data")}, REFUSALS)},
        "/v1/models/{name}": {"get": told("The model", {JSON: of("id")}, REFUSALS, name)},
        "/health": {"get": told("The process runs", state, REFUSALS)},
        "/ready": {"get": told("Requests are taken", state, (*REFUSALS, 503))},
        "/metrics": {"get": told("Numbers for Prometheus", {"text/plain": TEXT}, REFUSALS)},
        "/openapi.json": {"get": told("This description", {JSON: of("openapi")}, REFUSALS)},
        "/docs": {"get": told("This description as a page", {"text/html": TEXT}, REFUSALS)},
    }


def work(does: str, body: Schema, answer: Schema, also: str | None = None, *name: Schema) -> Schema:
    """An operation with a body: JSON, or `also` of another type. Pictures and answers stream."""
    answers = {JSON: answer} | ({EVENTS: TEXT} if "stream" in body["properties"] else {})
    kinds = [JSON] if also is None else [JSON, also]
    needed = bool(body.get("required"))
    said = {"required": needed, "content": {kind: {"schema": body} for kind in kinds}}
    return told(does, answers, OF_WORK, *name) | {"requestBody": said}


def told(
    does: str,
    answers: Mapping[str, Schema] | None,
    refusals: Collection[int],
    *parameters: Schema,
    part: bool = False,
) -> Schema:
    """An operation: its answer by content type (None where there is none), and its refusals.

    With `part`, a range of the answer may be asked for.
    """
    problem = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    said = {str(status): {"description": SAID[status], "content": problem} for status in refusals}
    if answers is not None:
        content = {kind: {"schema": schema} for kind, schema in answers.items()}
        said["200"] = {"description": "As asked", "content": content}
    if part:
        said["206"] = {"description": "A part"}
        said["416"] = {"description": "No such part"}
    return {"summary": does, "parameters": list(parameters), "responses": said}


def parameter(name: str, where: str, schema: Schema) -> Schema:
    """A part of an address."""
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def of(*names: str) -> Schema:
    """An object that has these at least."""
    return {"type": "object", "required": list(names)}


def object_of(properties: Schema) -> Schema:
    """An object, or nothing."""
    return {"type": ["object", "null"], "properties": properties}


def messages(settings: Settings) -> Schema:
    """The messages of a chat."""
    text = {"type": "string", "maxLength": settings.max_prompt}
    url = {"type": "object", "required": ["url"], "properties": {"url": TEXT}}
    parts = [
        {"properties": {"type": {"const": kind}, kind: value}, "required": ["type", kind]}
        for kind, value in (("text", text), ("image_url", url), ("video_url", url))
    ]
    content = {"anyOf": [text, {"type": "array", "minItems": 1, "items": {"anyOf": parts}}]}
    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": ["user", "assistant"]}, "content": content},
    }
    return {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": message}


def error() -> Schema:
    """What every refusal looks like."""
    maybe = {"type": ["string", "null"]}
    said = {"message": TEXT, "type": TEXT, "param": maybe, "code": maybe}
    inner = {"type": "object", "required": list(said), "properties": said}
    return {"type": "object", "required": ["error"], "properties": {"error": inner}}
