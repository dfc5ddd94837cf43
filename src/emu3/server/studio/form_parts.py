"""Form fields, event options and error handling that several tabs share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from emu3.errors import InputError
from emu3.server.errors import APIError, ClientDisconnected, invalid_request
from emu3.server.studio.context import StudioContext
from emu3.server.studio.html import status_line

RATIOS = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")
MAX_GUIDANCE = 15.0  # of the slider; the API accepts up to the server's limit

EVENT_OPTIONS = {"show_progress": "hidden", "concurrency_limit": None}
"""The engine queues requests itself, and each tab shows its own progress."""

SELECT_SCRIPT = """
element.addEventListener('click', event => {
  const selected = event.target.closest('[data-index]');
  if (selected) trigger('click', {index: Number(selected.dataset.index)});
});
"""
"""JavaScript of an HTML component: a click on an element with `data-index` sends that index."""

REQUEST_ERRORS = (APIError, ClientDisconnected, InputError)
"""Errors of a request that the page shows in its status line."""


def error_status(error: Exception) -> str:
    """Return the status line for one of REQUEST_ERRORS."""
    if isinstance(error, ClientDisconnected):
        return status_line("cancelled")
    message = error.message if isinstance(error, APIError) else str(error)
    return status_line(message, error=True)


async def stream_updates(
    updates: AsyncIterator[tuple[str, str]],
    extra: Callable[[bool], tuple[Any, ...]] = lambda is_last: (),
) -> AsyncIterator[tuple[Any, ...]]:
    """Turn updates of (HTML, status line) into outputs of a Gradio event.

    Outputs are the HTML, which stays as it is where the update is empty, the status line, the
    Cancel button, enabled until the last update, and those that `extra(is_last)` returns.
    """
    import gradio as gr

    html, status = "", ""
    async for html, status in updates:
        yield html or gr.skip(), status, gr.update(interactive=True), *extra(False)
    yield html or gr.skip(), status, gr.update(interactive=False), *extra(True)


def selected_index(event_data: Any) -> int | None:
    """Return the index that SELECT_SCRIPT sent, or None if a client sent something else."""
    index = event_data.get("index") if isinstance(event_data, dict) else None
    return index if isinstance(index, int) else None


def parse_integer(name: str, value: Any) -> int | None:
    """Return the integer in a form field, None for an empty one. Raises APIError."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    digits = text.removesuffix(".0")  # Gradio's number fields hold floats
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 20:
        raise invalid_request(name, "must be a whole number, 0 or more")
    return int(digits)


def prompt_field(context: StudioContext, examples: Sequence[str], elem_id: str) -> Any:
    """Return the prompt field, with buttons below it that fill in an example."""
    import gradio as gr

    prompt = gr.Textbox(
        label="Prompt",
        placeholder=examples[0],
        lines=1,
        max_lines=4,
        max_length=context.settings.max_prompt,
        elem_id=elem_id,
    )
    with gr.Row(elem_classes="examples"):
        for each in examples:
            button = gr.Button(each, size="sm", elem_classes="example")
            button.click(None, None, prompt, js=f"() => {json.dumps(each)}", api_name=False)
    return prompt


def ratio_field(elem_id: str) -> Any:
    """Return the choice of an aspect ratio."""
    import gradio as gr

    return gr.Dropdown(RATIOS, value="1:1", label="Aspect ratio", min_width=120, elem_id=elem_id)


def seed_field(elem_id: str) -> Any:
    """Return the seed field; empty stands for a random seed."""
    import gradio as gr

    return gr.Textbox(
        label="Seed", placeholder="random", max_length=20, elem_id=elem_id, min_width=120
    )


def sampling_fields(context: StudioContext) -> tuple[Any, Any, Any, Any]:
    """Return fields for negative prompt, guidance scale, temperature and top-k."""
    import gradio as gr

    defaults, settings = context.defaults, context.settings
    negative_prompt = gr.Textbox(
        defaults.negative_prompt, label="Negative prompt", lines=2, max_length=settings.max_prompt
    )
    guidance_scale = gr.Slider(
        0,
        min(settings.max_guidance, MAX_GUIDANCE),
        defaults.guidance_scale,
        step=0.1,
        label="Guidance scale",
        info="Higher values follow the prompt more closely; 1 turns guidance off.",
    )
    temperature = gr.Slider(
        0,
        2,
        defaults.temperature,
        step=0.01,
        label="Temperature",
        info="Lower values vary less; 0 always takes the most likely code.",
    )
    top_k = gr.Number(
        defaults.top_k,
        label="Top-k",
        precision=0,
        minimum=0,
        info="Sample from this many of the most likely codes; 0 means all.",
    )
    return negative_prompt, guidance_scale, temperature, top_k
