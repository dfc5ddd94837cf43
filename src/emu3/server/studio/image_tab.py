"""The tab that draws."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from emu3.server.errors import APIError
from emu3.server.studio.context import Room
from emu3.server.studio.form_parts import chips, seed_field, taste
from emu3.server.studio.html import empty, note
from emu3.server.studio.image_handlers import RATIOS, drawing, wish_of
from emu3.server.studio.session import Seat

EXAMPLES = (
    "a red apple, masterpiece still life",
    "a lighthouse at dusk, oil painting",
    "a fox in fresh snow",
)
NANOS_EXAMPLES = (
    "a red apple, noto style",
    "a tiger, fluent style",
    "a sunflower, twemoji style",
    "a red heart, noto style",
)


SHOW = "() => document.querySelector('#draw-canvas').scrollIntoView({block: 'nearest'})"
"""On a phone the picture lies below the form."""


def examples(room: Room) -> tuple[str, ...]:
    """Prompts that suit the model: nano knows emoji and nothing else."""
    return NANOS_EXAMPLES if room.is_nano else EXAMPLES


def build(room: Room, kept: Any) -> tuple[list[Any], list[Any]]:
    """The tab; `kept` is the session's list.

    Returns its fields, in the order of `wish_of`, and the events after which more is kept.
    """
    import gradio as gr

    seat = gr.State(Seat())
    with gr.Row(elem_classes="halves"):
        with gr.Column(min_width=300, elem_classes="fields"):
            prompt = prompt_field(room)
            with gr.Row(elem_classes="buttons"):
                go = gr.Button("Draw", variant="primary", elem_id="draw-go")
                stop = gr.Button("Cancel", interactive=False, elem_id="draw-stop")
            fields = [prompt, *more(room)]
        with gr.Column(min_width=300):
            canvas = gr.HTML(empty("Your picture grows here."), elem_id="draw-canvas")
            line = gr.HTML(elem_id="draw-note")

    async def draw(*values: Any) -> AsyncIterator[tuple[Any, ...]]:
        *said, sitting, all_kept = values
        idle, busy = gr.update(interactive=False), gr.update(interactive=True)
        shown: tuple[str, str] | None = None
        try:
            wish = wish_of(tuple(said))
            async for shown in drawing(room, wish, sitting, all_kept):
                yield *shown, busy
        except APIError as problem:
            yield gr.skip(), note(problem.message, "problem"), idle
        if shown is not None:
            yield *shown, idle

    inputs, outputs = [*fields, seat, kept], [canvas, line, stop]
    quiet = {"show_progress": "hidden", "concurrency_limit": None}
    clicked = go.click(draw, inputs, outputs, api_name="draw", **quiet)
    entered = prompt.submit(draw, inputs, outputs, api_name=False, **quiet)
    stop.click(Seat.leave, seat, None, api_name="cancel", **quiet)
    go.click(None, None, None, js=SHOW, api_name=False)
    return fields, [clicked, entered]


def prompt_field(room: Room) -> Any:
    """The prompt, and examples of it; the other fields come below the buttons."""
    import gradio as gr

    prompt = gr.Textbox(
        label="What to draw",
        placeholder=examples(room)[0],
        lines=1,
        max_lines=4,
        max_length=room.settings.max_prompt,
        elem_id="draw-prompt",
    )
    chips(examples(room), prompt)
    return prompt


def more(room: Room) -> list[Any]:
    """The fields behind the prompt, in the order of `wish_of`."""
    import gradio as gr

    most = room.settings.max_n
    with gr.Row():
        ratio = gr.Dropdown(
            RATIOS, value="1:1", label="Width to height", min_width=120, elem_id="draw-ratio"
        )
        seed = seed_field("draw-seed")
    count = gr.Slider(1, max(2, most), 1, step=1, label="How many", visible=most > 1)
    with gr.Accordion("More settings", open=False, elem_id="draw-more"):
        negative, guidance, temperature, top_k = taste(room)
    return [negative, ratio, guidance, temperature, top_k, seed, count]
