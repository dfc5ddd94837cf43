"""The History tab: images and videos generated on this page, with their settings."""

# No `from __future__ import annotations`: Gradio inspects the annotation `gr.EventData`.

from typing import Any

from emu3.server.studio.form_parts import EVENT_OPTIONS, SELECT_SCRIPT, selected_index
from emu3.server.studio.history import HistoryItem
from emu3.server.studio.html import (
    download_link,
    frame,
    image_grid,
    image_tag,
    placeholder,
    settings_table,
    video_tag,
)

PLACEHOLDER = "Images and videos that you generate appear here until you close the page."


def build(history: Any, generated: list[Any], tabs: Any, image_fields: list[Any]) -> None:
    """Add the tab's components.

    `history` is the page's `gr.State` of HistoryItems, `generated` the events that add to it.
    The settings of an image can be copied back to `image_fields`, the fields of the Image tab in
    `tabs`; the list is empty if the checkpoint does not generate images.
    """
    import gradio as gr

    selected = gr.State(0)
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(min_width=300):
            thumbnails = gr.HTML(
                placeholder(PLACEHOLDER), js_on_load=SELECT_SCRIPT, elem_id="history-thumbnails"
            )
        with gr.Column(min_width=300):
            details = gr.HTML(elem_id="history-details")
            reuse = gr.Button("Reuse these settings", visible=False, elem_id="history-reuse")

    def show(items: list[HistoryItem], index: int) -> tuple[Any, ...]:
        index = index if 0 <= index < len(items) else 0
        item = items[index] if items else None
        can_reuse = bool(image_fields) and item is not None and not item.is_video
        return (
            thumbnails_html(items, index),
            details_html(item),
            gr.update(visible=can_reuse),
            index,
        )

    def select(items: list[HistoryItem], event: gr.EventData) -> tuple[Any, ...]:
        return show(items, selected_index(event._data) or 0)

    def show_newest(items: list[HistoryItem]) -> tuple[Any, ...]:
        return show(items, 0)

    outputs = [thumbnails, details, reuse, selected]
    for number, event in enumerate(generated):
        api_name = "history" if number == 0 else False
        event.then(show_newest, history, outputs, api_name=api_name, **EVENT_OPTIONS)
    thumbnails.click(select, history, outputs, api_name=False, **EVENT_OPTIONS)
    if not image_fields:
        return

    def reuse_settings(items: list[HistoryItem], index: int) -> tuple[Any, ...]:
        if not 0 <= index < len(items):
            return (gr.skip(),) * (1 + len(image_fields))
        settings = items[index].settings
        names = ("prompt", "negative_prompt", "ratio", "guidance_scale", "temperature", "top_k")
        values = [settings[name] for name in names]
        return gr.update(selected="image"), *values, str(settings["seed"]), 1

    reuse.click(
        reuse_settings,
        [history, selected],
        [tabs, *image_fields],
        api_name="reuse_settings",
        **EVENT_OPTIONS,
    )


def thumbnails_html(items: list[HistoryItem], selected: int) -> str:
    """Return a button per item; the one at index `selected` is marked."""
    if not items:
        return placeholder(PLACEHOLDER)
    cells = (
        f'<button class="thumbnail {"selected" if index == selected else ""}" '
        f'data-index="{index}">{_item_html(item)}</button>'
        for index, item in enumerate(items)
    )
    return image_grid(cells, "thumbnails")


def details_html(item: HistoryItem | None) -> str:
    """Return an item with its download link and its settings."""
    if item is None:
        return ""
    settings = {name: value for name, value in item.settings.items() if value != ""}
    link = f'<p class="links">{download_link(item.url, item.file_name)}</p>'
    return f'<div class="details">{_item_html(item)}{link}{settings_table(settings)}</div>'


def _item_html(item: HistoryItem) -> str:
    label = str(item.settings.get("prompt") or "empty prompt")
    tag = video_tag if item.is_video else image_tag
    return frame(tag(item.url, label, item.size), item.size)
