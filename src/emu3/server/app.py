"""The application factory: routes, middleware, error handlers and the application's state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from emu3.inference.async_engine import AsyncEngine
from emu3.server.errors import add_exception_handlers
from emu3.server.metrics import Metrics
from emu3.server.middleware import AuthenticationMiddleware, RequestLogMiddleware
from emu3.server.openapi import COMMON_ERRORS, openapi_document
from emu3.server.origins import ForwardedHeadersMiddleware, OriginMiddleware
from emu3.server.routes import chat, images, system, videos
from emu3.server.settings import Settings
from emu3.server.video_worker import VideoWorker

if TYPE_CHECKING:
    from emu3.server.studio import Studio


def create_app(engine: AsyncEngine, settings: Settings, studio: bool = False) -> FastAPI:
    """Return the server as an ASGI application. It closes the engine when it shuts down.

    With `studio`, the web studio is at `/`. Raises MissingExtraError if Gradio is not installed,
    and InputError if the jobs folder cannot be opened.
    """
    metrics = Metrics(engine)
    page = _create_studio(engine, settings, metrics) if studio else None
    worker = None
    if "video" in engine.checkpoint.defaults.tasks:
        worker = VideoWorker(engine, settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if page is not None:
                await stack.enter_async_context(page.lifespan())
            yield
        if worker is not None:
            await asyncio.to_thread(worker.close)
        await asyncio.to_thread(engine.close)

    app = FastAPI(
        title="Emu3",
        version="1",
        description="The part of OpenAI's API that Emu3 implements.",
        responses=COMMON_ERRORS,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # see docs_page.py
        redoc_url=None,
    )
    app.state.engine, app.state.settings = engine, settings
    app.state.metrics, app.state.video_worker, app.state.studio = metrics, worker, page
    for routes in (images, chat, videos, system):
        app.include_router(routes.router)
    document = openapi_document(app, settings)
    app.openapi = lambda: document  # type: ignore[method-assign]  # as FastAPI documents it
    add_exception_handlers(app)
    gateway = None if page is None else page.gateway
    if gateway is not None:
        from emu3.server.studio.gateway import StudioMiddleware

        app.add_middleware(StudioMiddleware, gateway=gateway)
    app.add_middleware(AuthenticationMiddleware, api_key=settings.api_key, studio=gateway)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(OriginMiddleware, settings=settings)
    app.add_middleware(RequestLogMiddleware, metrics=metrics)
    # The last one added is outermost.
    app.add_middleware(ForwardedHeadersMiddleware, trusted=settings.forwarded_allow_ips)
    return app


def _create_studio(engine: AsyncEngine, settings: Settings, metrics: Metrics) -> Studio:
    from emu3.server.studio import create_studio

    return create_studio(engine, settings, metrics)
