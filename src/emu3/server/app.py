"""The application: routes, and what becomes of errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emu3.errors import MissingExtraError
from emu3.inference.async_engine import AsyncEngine
from emu3.server import event_stream
from emu3.server.docs_page import DocsPage
from emu3.server.errors import APIError, invalid_request
from emu3.server.event_stream import ClientDisconnected, EventStream
from emu3.server.fields import NAME, Fields, read_object
from emu3.server.forms import FORM, read_form
from emu3.server.media import VideoDecoder
from emu3.server.metrics import CONTENT_TYPE, Metrics
from emu3.server.middleware import RequestMiddleware
from emu3.server.openapi import document
from emu3.server.routes import chat, images
from emu3.server.routes.videos import FILMS, VideoRoutes
from emu3.server.settings import Settings
from emu3.server.video_worker import VideoWorker

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

    from emu3.server.studio.app import Studio

LOG = logging.getLogger("emu3.server")
DRAWS, ANSWERS = "image", "chat"  # tasks of a card
CLIENT_CLOSED = 499  # nginx's number for a client that did not wait; nobody reads it but the log


def create_app(engine: AsyncEngine, settings: Settings, studio: Studio | None = None) -> FastAPI:
    """The server as an ASGI application; it closes the engine when it is shut down.

    With a studio, its page is at `/`.

    Raises MissingExtraError without FastAPI.
    """
    try:
        from fastapi import FastAPI
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect
    except ImportError:
        raise MissingExtraError("fastapi", "serve", "emu3 serve") from None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as around:
            if studio is not None:
                await around.enter_async_context(studio.lifespan())
            yield
        if films is not None:
            await asyncio.to_thread(films.close)
        await asyncio.to_thread(engine.close)

    films = VideoWorker(engine, settings) if FILMS in engine.checkpoint.defaults.tasks else None
    routes = Routes(engine, settings, Metrics())
    moving = VideoRoutes(engine, settings, films, routes.fields)
    made = FastAPI(title="emu3", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    made.router.redirect_slashes = False
    for path, method, endpoint in (
        ("/v1/images/generations", "POST", routes.generations),
        ("/v1/images/edits", "POST", routes.edits),
        ("/v1/chat/completions", "POST", routes.completions),
        ("/v1/models", "GET", routes.models),
        ("/v1/models/{name:path}", "GET", routes.model),
        ("/health", "GET", routes.health),
        ("/ready", "GET", routes.ready),
        ("/metrics", "GET", routes.numbers),
        *moving.paths(),
        *DocsPage(document(engine, settings)).paths(),
    ):
        made.add_route(path, endpoint, methods=[method])
    made.add_exception_handler(APIError, told)
    made.add_exception_handler(HTTPException, told_of_http)
    made.add_exception_handler(ClientDisconnected, told_to_nobody)
    made.add_exception_handler(ClientDisconnect, told_to_nobody)
    made.add_exception_handler(Exception, told_of_a_bug)
    gateway = None if studio is None else studio.gateway
    if gateway is not None:
        from emu3.server.studio.gateway import StudioMiddleware

        made.add_middleware(StudioMiddleware, gateway=gateway)
    made.add_middleware(
        RequestMiddleware, settings=settings, metrics=routes.metrics, studio=gateway
    )
    return made


@dataclass(frozen=True)
class Routes:
    """What is behind each path."""

    engine: AsyncEngine
    settings: Settings
    metrics: Metrics

    async def generations(self, request: Request) -> Response:
        """Words to pictures."""
        fields = await self.fields(request, DRAWS)
        order = images.read_order(fields, self.engine, self.settings)
        following = await self.follow(order.requests)
        if order.stream:
            return streamed(images.stream(request, following, order, asyncio.to_thread))
        return json_of(await images.draw(request, following, order, asyncio.to_thread))

    async def edits(self, request: Request) -> Response:
        """Refused, with the reason."""
        raise invalid_request(None, f"edits are not supported: {images.EDITS}", "unsupported")

    async def completions(self, request: Request) -> Response:
        """Questions to answers."""
        fields = await self.fields(request, ANSWERS)
        # In a thread: pictures are unpacked, and perhaps fetched.
        question = await asyncio.to_thread(
            chat.read_question, fields, self.settings, self.video_decoder()
        )
        following = await self.follow((question.request,))
        name = self.settings.model
        if question.request.stream:
            return streamed(chat.stream(request, following, name, question.usage_in_stream))
        return json_of(await chat.answer(request, following, name))

    async def models(self, request: Request) -> Response:
        """The one model there is."""
        return json_of({"object": "list", "data": [self.described()]})

    async def model(self, request: Request) -> Response:
        """The one model, by its name."""
        self.check_model(request.path_params["name"])
        return json_of(self.described())

    async def health(self, request: Request) -> Response:
        """Whether the process runs."""
        return json_of({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether it takes requests."""
        if not self.engine.stats().open:
            raise APIError(503, "the server is stopping", code="closing")
        return json_of({"status": "ok"})

    async def numbers(self, request: Request) -> Response:
        """Numbers for Prometheus."""
        from starlette.responses import Response

        text = self.metrics.text(self.engine.stats())
        return Response(text, media_type=None, headers={"content-type": CONTENT_TYPE})

    async def follow(self, requests: Any) -> EventStream:
        """Submit requests to the engine. Raises APIError."""
        return EventStream(self.engine, requests, self.settings)

    def described(self) -> dict[str, Any]:
        """The model as OpenAI's list has it."""
        return {"id": self.settings.model, "object": "model", "created": 0, "owned_by": "emu3"}

    def check_model(self, name: object) -> None:
        """Raise APIError on a model that is not here."""
        if name != self.settings.model:
            said = f"model: not served here; GET /v1/models says {self.settings.model!r}"
            raise APIError(404, said, "model", "model_not_found")

    def video_decoder(self) -> VideoDecoder | None:
        """How clips are looked at; None if the model knows none."""
        checkpoint = self.engine.checkpoint
        if FILMS not in checkpoint.defaults.tasks:
            return None
        return VideoDecoder(checkpoint.vision_processor.preprocessor, self.settings)

    async def fields(
        self, request: Request, task: str, numbers: Collection[str] | None = None
    ) -> Fields:
        """The fields of a body for this model, `model` itself taken. Raises APIError.

        With `numbers` it may be a form too, in which these are numbers.
        """
        said = request.headers.get("content-type", "")
        kind = said.partition(";")[0].strip().lower()
        if kind == "application/json":
            fields = Fields(read_object(await self.body(request)))
        elif kind == FORM and numbers is not None:
            fields = Fields(await read_form(await self.body(request), said, numbers))
        else:
            form = "" if numbers is None else f" or {FORM}"
            raise APIError(415, f"send Content-Type: application/json{form}")
        name = fields.text("model", NAME)
        if name is not None:
            self.check_model(name)
        if task not in self.engine.checkpoint.defaults.tasks:
            raise invalid_request(
                None, f"{self.settings.model} was not made for this task ({task})"
            )
        return fields

    async def body(self, request: Request) -> bytes:
        """All of the body, of which no more than allowed is ever held. Raises APIError."""
        most, data = self.settings.max_body, bytearray()
        said = request.headers.get("content-length", "0")
        too_much = APIError(413, f"more than {most} bytes of body (limit max_body)")
        if said.isdecimal() and int(said[:20]) > most:
            raise too_much
        async for part in request.stream():
            data += part
            if len(data) > most:
                raise too_much
        return bytes(data)


def json_of(value: dict[str, Any]) -> Response:
    """An answer."""
    from starlette.responses import JSONResponse

    return JSONResponse(value)


def streamed(parts: AsyncIterator[str]) -> Response:
    """An answer that comes event by event."""
    from starlette.responses import StreamingResponse

    return StreamingResponse(
        parts, media_type="text/event-stream", headers=event_stream.SSE_HEADERS
    )


async def told(request: Request, problem: Exception) -> Response:
    """A problem in OpenAI's shape."""
    from starlette.responses import JSONResponse

    assert isinstance(problem, APIError)
    return JSONResponse(problem.body(), problem.status, dict(problem.headers))


async def told_of_http(request: Request, error: Any) -> Response:
    """What the router says: no such path, no such method."""
    said = {404: "no such path", 405: "this path does not know that method"}
    problem = APIError(error.status_code, said.get(error.status_code, str(error.detail)))
    problem.headers = dict(error.headers or {})
    return await told(request, problem)


async def told_of_a_bug(request: Request, error: Exception) -> Response:
    """A bug: the log has it whole, the client hears that there was one."""
    return await told(request, APIError(500, "the server failed; its log says more"))


async def told_to_nobody(request: Request, error: Exception) -> Response:
    """The client has gone."""
    return await told(request, APIError(CLIENT_CLOSED, "the client has gone"))
