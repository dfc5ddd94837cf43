"""The gallery: what this session has made, with its settings, and a way back to them."""

# No postponed annotations here: Gradio reads `gr.EventData` off a function to know what it wants.

from typing import Any

from emu3.server.studio.history import Kept
from emu3.server.studio.html import clip, download, empty, frame, grid, image, table

NOTHING = "What you make in this session is kept here, until you close the page."
PICK = """
element.addEventListener('click', event => {
  const picked = event.target.closest('[data-pick]');
  if (picked) trigger('click', {index: Number(picked.dataset.pick)});
});
"""
"""A click on anything that says what it is; buttons make the same of the Enter key."""


def build(kept: Any, made: list[Any], tabs: Any, fields: list[Any]) -> None:
    """The tab; `made` are the events after which more is kept.

    Settings go back to the fields of the tab that draws, if there are any.
    """
    import gradio as gr

    chosen = gr.State(0)
    with gr.Row(elem_classes="halves"):
        with gr.Column(min_width=300):
            wall = gr.HTML(empty(NOTHING), js_on_load=PICK, elem_id="gallery-wall")
        with gr.Column(min_width=300):
            card = gr.HTML(elem_id="gallery-card")
            again = gr.Button("Use these settings again", visible=False, elem_id="gallery-again")

    def shown(all_kept: list[Kept], index: int) -> tuple[Any, ...]:
        index = index if 0 <= index < len(all_kept) else 0
        one = all_kept[index] if all_kept else None
        can = bool(fields) and one is not None and not one.moves
        return wall_of(all_kept, index), card_of(one), gr.update(visible=can), index

    def picked(all_kept: list[Kept], event: gr.EventData) -> tuple[Any, ...]:
        index = event._data.get("index") if isinstance(event._data, dict) else 0
        return shown(all_kept, index if isinstance(index, int) else 0)

    def newest(all_kept: list[Kept]) -> tuple[Any, ...]:
        return shown(all_kept, 0)

    outputs = [wall, card, again, chosen]
    quiet = {"show_progress": "hidden", "concurrency_limit": None}
    for number, event in enumerate(made):
        name = False if number else "gallery"
        event.then(newest, kept, outputs, api_name=name, **quiet)
    wall.click(picked, kept, outputs, api_name=False, **quiet)
    if not fields:
        return

    def back(all_kept: list[Kept], index: int) -> tuple[Any, ...]:
        if not 0 <= index < len(all_kept):
            return (gr.skip(),) * (1 + len(fields))
        said = all_kept[index].settings
        names = ("prompt", "negative_prompt", "ratio", "guidance_scale", "temperature", "top_k")
        return gr.update(selected="draw"), *(said[name] for name in names), str(said["seed"]), 1

    again.click(back, [kept, chosen], [tabs, *fields], api_name="again", **quiet)


def wall_of(kept: list[Kept], index: int) -> str:
    """Everything kept, small; one of them is chosen."""
    if not kept:
        return empty(NOTHING)
    cells = (
        f'<button class="pick {"chosen" if number == index else ""}" data-pick="{number}">'
        f"{frame(seen(each), each.size)}</button>"
        for number, each in enumerate(kept)
    )
    return grid(cells, "wall")


def card_of(one: Kept | None) -> str:
    """One of them, large, with its settings."""
    if one is None:
        return ""
    rows = {name: value for name, value in one.settings.items() if value != ""}
    links = f'<p class="links">{download(one.url, one.name)}</p>'
    return f'<div class="card">{frame(seen(one), one.size)}{links}{table(rows)}</div>'


def seen(one: Kept) -> str:
    """The picture or the clip itself."""
    what = str(one.settings.get("prompt") or "no words")
    return clip(one.url, what, one.size) if one.moves else image(one.url, what, one.size)
