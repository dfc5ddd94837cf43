"""The page: tabs over one engine, and Gradio's application behind the door."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from emu3.errors import MissingExtraError
from emu3.inference.async_engine import AsyncEngine
from emu3.server.settings import Settings
from emu3.server.studio import chat_tab, history_tab, image_tab, tokens_tab, video_tab
from emu3.server.studio.auth import Door
from emu3.server.studio.context import Room
from emu3.server.studio.html import empty

TITLE = "Emu3 studio"


@dataclass(frozen=True)
class Studio:
    """The page as an application, and what has to happen around it."""

    door: Door
    inner: Any

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run Gradio's own tasks for as long as the server runs."""
        async with self.inner.router.lifespan_context(self.inner):
            yield


def check_extra() -> None:
    """Raise MissingExtraError without Gradio."""
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise MissingExtraError("gradio", "studio", "the studio") from None


def studio(engine: AsyncEngine, settings: Settings) -> Studio:
    """The page for an engine, under the operator's limits. Raises MissingExtraError."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio tells nobody that it runs
    check_extra()
    import gradio as gr
    from fastapi import FastAPI

    room = Room(engine, settings)
    page, inner = build(room), FastAPI()
    page.queue(default_concurrency_limit=None, max_size=None)
    gr.mount_gradio_app(
        inner,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css_paths=[Path(__file__).with_name("style.css")],
        max_file_size=settings.max_body,
    )
    page.has_launched = True  # or Gradio would not look where a file lies that is named to it
    return Studio(Door(inner, room.shelf, settings), inner)


def build(room: Room) -> Any:
    """All tabs. Only what the model was made for can be done; the others say so."""
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False) as page:
        gr.HTML(heading(room), elem_id="heading")
        kept = gr.State([])
        fields, made = list[Any](), list[Any]()
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Draw", id="draw"):
                if room.can("image"):
                    fields, made = image_tab.build(room, kept)
                else:
                    cannot(room, "draw pictures")
            with gr.Tab("Look", id="look"):
                if room.can("chat"):
                    chat_tab.build(room)
                else:
                    cannot(room, "answer questions")
            with gr.Tab("Move", id="move"):
                if room.can("video"):
                    made += video_tab.build(room, kept)
                else:
                    cannot(room, "draw videos")
            with gr.Tab("Tokens", id="tokens"):
                tokens_tab.build(room)
            with gr.Tab("Gallery", id="gallery"):
                history_tab.build(kept, made, tabs, fields)
    return page


def heading(room: Room) -> str:
    """The name of the house and of the model."""
    return f"<h1>Emu3 studio</h1><p>{escape(room.settings.model)}</p>"


def cannot(room: Room, what: str) -> None:
    """A tab that has nothing to offer, in one line."""
    import gradio as gr

    gr.HTML(empty(f"{room.settings.model} was not made to {what}."))


def theme() -> Any:
    """Calm, and made of fonts that are here already."""
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
