"""The tab that looks: drop a picture or a clip, ask, and ask again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from emu3.server.studio.chat_handlers import Talk, asking
from emu3.server.studio.context import Room
from emu3.server.studio.html import empty
from emu3.server.studio.session import Seat
from emu3.server.studio.upload import drop

NOTHING = "Drop a picture, ask what it shows. Answers are read with all that was said before."


def build(room: Room) -> None:
    """The tab."""
    import gradio as gr

    seat, talk = gr.State(Seat()), gr.State(Talk())
    clips = room.can("video")
    with gr.Row(elem_classes="halves"):
        with gr.Column(min_width=300, elem_classes="fields"):
            what = (
                "Drop a picture or a clip, or choose one"
                if clips
                else "Drop a picture, or choose one"
            )
            dropped = drop(what, room.settings.max_body, "look-drop", clips)
            question = gr.Textbox(
                "What is this?",
                label="Question",
                lines=1,
                max_lines=4,
                max_length=room.settings.max_prompt,
                elem_id="look-question",
            )
            with gr.Row(elem_classes="buttons"):
                go = gr.Button("Ask", variant="primary", elem_id="look-go")
                stop = gr.Button("Cancel", interactive=False, elem_id="look-stop")
                anew = gr.Button("Start anew", elem_id="look-anew")
        with gr.Column(min_width=300):
            said = gr.HTML(empty(NOTHING), elem_id="look-talk", autoscroll=True)
            line = gr.HTML(elem_id="look-note")

    async def ask(
        source: str | None, text: str | None, sitting: Seat, so_far: Talk
    ) -> AsyncIterator[tuple[Any, ...]]:
        shown, asked = ("", ""), len(so_far.turns)
        async for shown in asking(room, so_far, text or "", source or "", sitting):
            yield *shown, gr.update(interactive=True), gr.skip()
        taken = "" if len(so_far.turns) > asked else gr.skip()  # it is in the conversation now
        yield shown[0] or empty(NOTHING), shown[1], gr.update(interactive=False), taken

    def forget(sitting: Seat) -> tuple[Any, ...]:
        sitting.leave()
        return Talk(), empty(NOTHING), "", ""

    inputs, outputs = [dropped, question, seat, talk], [said, line, stop, dropped]
    quiet = {"show_progress": "hidden", "concurrency_limit": None}
    go.click(ask, inputs, outputs, api_name="ask", **quiet)
    question.submit(ask, inputs, outputs, api_name=False, **quiet)
    stop.click(Seat.leave, seat, None, api_name=False, **quiet)
    anew.click(forget, seat, [talk, said, line, dropped], api_name="forget", **quiet)
