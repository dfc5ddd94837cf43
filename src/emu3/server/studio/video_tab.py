"""The tab that moves: words to clips, a picture that begins one, and what comes after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from emu3.server.errors import APIError
from emu3.server.studio.context import Room
from emu3.server.studio.form_parts import chips, seed_field, taste
from emu3.server.studio.html import empty, note
from emu3.server.studio.image_handlers import RATIOS, whole
from emu3.server.studio.session import Seat
from emu3.server.studio.upload import drop
from emu3.server.studio.video_handlers import Script, Take, filming

NANOS_EXAMPLES = ("a red apple moves right, noto style", "a red car drives by")
EXAMPLES = ("waves roll onto a beach at dusk", "a cat walks through fresh snow")
MOST_SECONDS = 10.0  # of the slider; how long a clip may be is a limit of the server's


def build(room: Room, kept: Any) -> list[Any]:
    """The tab; `kept` is the session's list. Returns the events after which more is kept."""
    import gradio as gr

    seat, take = gr.State(Seat()), gr.State(Take())
    with gr.Row(elem_classes="halves"):
        with gr.Column(min_width=300, elem_classes="fields"):
            fields = form(room)
            with gr.Row(elem_classes="buttons"):
                go = gr.Button("Film", variant="primary", elem_id="move-go")
                more = gr.Button("Go on", interactive=False, elem_id="move-more")
                stop = gr.Button("Cancel", interactive=False, elem_id="move-stop")
        with gr.Column(min_width=300):
            screen = gr.HTML(empty("Your clip appears here, four frames at a time."))
            line = gr.HTML(elem_id="move-note")

    async def film(go_on: bool, values: tuple[Any, ...]) -> AsyncIterator[tuple[Any, ...]]:
        *said, sitting, taken, all_kept = values
        shown = ("", "")
        yield gr.skip(), note("waiting for a place"), gr.update(interactive=True), gr.skip()
        try:
            script = script_of(tuple(said))
            async for shown in filming(room, script, taken, go_on, sitting, all_kept):
                yield shown[0] or gr.skip(), shown[1], gr.skip(), gr.skip()
        except APIError as problem:
            shown = "", note(problem.message, "problem")
        can_go_on = gr.update(interactive=taken.coded is not None)
        yield shown[0] or gr.skip(), shown[1], gr.update(interactive=False), can_go_on

    async def anew(*values: Any) -> AsyncIterator[tuple[Any, ...]]:
        async for shown in film(False, values):
            yield shown

    async def further(*values: Any) -> AsyncIterator[tuple[Any, ...]]:
        async for shown in film(True, values):
            yield shown

    inputs, outputs = [*fields, seat, take, kept], [screen, line, stop, more]
    quiet = {"show_progress": "hidden", "concurrency_limit": None}
    begun = go.click(anew, inputs, outputs, api_name="film", **quiet)
    gone_on = more.click(further, inputs, outputs, api_name="go_on", **quiet)
    stop.click(Seat.leave, seat, None, api_name=False, **quiet)
    return [begun, gone_on]


def form(room: Room) -> list[Any]:
    """The fields, in the order of `script_of`."""
    import gradio as gr

    own = NANOS_EXAMPLES if room.is_nano else EXAMPLES
    prompt = gr.Textbox(
        label="What is to be seen",
        placeholder=own[0],
        lines=1,
        max_lines=4,
        max_length=room.settings.max_prompt,
        elem_id="move-prompt",
    )
    chips(own, prompt)
    first = drop("First picture, if you have one", room.settings.max_body, "move-drop")
    with gr.Row():
        seconds = gr.Slider(0.5, MOST_SECONDS, 2.0, step=0.5, label="Seconds", min_width=120)
        seed = seed_field("move-seed")
    with gr.Accordion("More settings", open=False):
        ratio = gr.Dropdown(RATIOS, value="1:1", label="Width to height")
        negative, guidance, temperature, top_k = taste(room)
    return [prompt, negative, ratio, seconds, first, guidance, temperature, top_k, seed]


def script_of(values: tuple[Any, ...]) -> Script:
    """What the form's fields hold, in their order. Raises APIError on what is no number."""
    prompt, negative, ratio, seconds, first, guidance, temperature, top_k, seed = values
    return Script(
        str(prompt or ""),
        negative,
        str(ratio),
        seconds,
        str(first or ""),
        guidance,
        temperature,
        whole("top_k", top_k),
        whole("seed", seed),
    )
