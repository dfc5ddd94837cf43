"""The page: its tabs, its theme, and Gradio's application behind the gateway."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu3.errors import MissingExtraError
from emu3.inference.async_engine import AsyncEngine
from emu3.server.metrics import Metrics
from emu3.server.settings import Settings
from emu3.server.studio.context import StudioContext
from emu3.server.studio.html import placeholder

if TYPE_CHECKING:
    from fastapi import FastAPI

    from emu3.server.studio.gateway import StudioGateway

TITLE = "Emu3 studio"


@dataclass(frozen=True)
class Studio:
    """The page as an ASGI application, and the application of Gradio behind it."""

    gateway: StudioGateway
    gradio_app: FastAPI

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Run Gradio's background tasks."""
        async with self.gradio_app.router.lifespan_context(self.gradio_app):
            yield


def check_gradio_installed() -> None:
    """Raise MissingExtraError if Gradio is not installed."""
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise MissingExtraError("gradio", "studio", "the studio") from None


def create_studio(engine: AsyncEngine, settings: Settings, metrics: Metrics) -> Studio:
    """Create the page for an engine. Requests are subject to the limits in `settings`.

    Raises MissingExtraError if Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    check_gradio_installed()
    import gradio as gr
    from fastapi import FastAPI

    from emu3.server.studio.gateway import StudioGateway

    context = StudioContext(engine, settings, metrics)
    page, gradio_app = build_page(context), FastAPI()
    page.queue(default_concurrency_limit=None, max_size=None)
    gr.mount_gradio_app(
        gradio_app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(),
        css_paths=[Path(__file__).with_name("style.css")],
        max_file_size=settings.max_body,
    )
    # Gradio checks that files named in a request lie in permitted folders only once launched.
    page.has_launched = True
    return Studio(StudioGateway(gradio_app, context.media_cache, settings), gradio_app)


def build_page(context: StudioContext) -> Any:
    """Return the Gradio page. Tabs for unsupported tasks contain a message instead of a form."""
    import gradio as gr

    from emu3.server.studio import chat_tab, history_tab, image_tab, tokens_tab, video_tab

    image_fields, generated = list[Any](), list[Any]()
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{escape(context.settings.model)}</p>", elem_id="heading")
        history = gr.State([])
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Image", id="image"):
                if context.supports("image"):
                    image_fields, generated = image_tab.build(context, history)
                else:
                    _unsupported(context, "generate images")
            with gr.Tab("Chat", id="chat"):
                if context.supports("chat"):
                    chat_tab.build(context)
                else:
                    _unsupported(context, "answer questions")
            with gr.Tab("Video", id="video"):
                if context.supports("video"):
                    generated += video_tab.build(context, history)
                else:
                    _unsupported(context, "generate videos")
            with gr.Tab("Tokens", id="tokens"):
                tokens_tab.build(context)
            with gr.Tab("History", id="history"):
                history_tab.build(history, generated, tabs, image_fields)
    return page


def _unsupported(context: StudioContext, task: str) -> None:
    import gradio as gr

    gr.HTML(placeholder(f"{context.settings.model} was not trained to {task}."))


def _theme() -> Any:
    """Return a theme that uses only fonts of the device."""
    import gradio as gr

    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        font=("ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_large_padding="0.45rem 1rem",
        button_large_text_weight="500",
        color_accent="*primary_600",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_400",
        block_label_text_size="*text_sm",
        body_text_color_subdued="*neutral_500",
    )
