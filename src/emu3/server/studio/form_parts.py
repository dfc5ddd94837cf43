"""Parts of forms that two tabs share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from emu3.server.studio.context import Room


def chips(texts: Sequence[str], field: Any) -> None:
    """Examples that are put into a field by a click."""
    import gradio as gr

    with gr.Row(elem_classes="chips"):
        for each in texts:
            chip = gr.Button(each, size="sm", elem_classes="chip")
            chip.click(None, None, field, js=f"() => {json.dumps(each)}", api_name=False)


def seed_field(name: str) -> Any:
    """A seed, or none."""
    import gradio as gr

    return gr.Textbox(
        label="Seed", placeholder="by chance", max_length=20, elem_id=name, min_width=120
    )


def taste(room: Room) -> tuple[Any, Any, Any, Any]:
    """Negative prompt, guidance, temperature and top-k, as they suit the model."""
    import gradio as gr

    card = room.defaults
    negative = gr.Textbox(
        card.negative_prompt,
        label="Not to be seen",
        lines=2,
        max_length=room.settings.max_prompt,
    )
    guidance = gr.Slider(
        0,
        min(room.settings.max_guidance, 15.0),
        card.guidance_scale,
        step=0.1,
        label="Guidance",
        info="How closely to keep to the words; 1 is none.",
    )
    temperature = gr.Slider(
        0,
        2,
        card.temperature,
        step=0.01,
        label="Temperature",
        info="Lower is calmer; 0 always takes the likeliest.",
    )
    top_k = gr.Number(
        card.top_k,
        label="Top-k",
        precision=0,
        minimum=0,
        info="Only so many of the likeliest codes; 0 is all.",
    )
    return negative, guidance, temperature, top_k
