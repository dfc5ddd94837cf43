"""The Image tab: text to images, which appear row by row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from emu3.inference.events import ImageResult, PartialImage, RowProgress
from emu3.inference.requests import ImageRequest
from emu3.outputs import ImageSettings
from emu3.server.event_stream import EventStream
from emu3.server.request_body import validate
from emu3.server.routes.images import image_requests
from emu3.server.schemas import ImageGenerationRequest
from emu3.server.studio.context import StudioContext
from emu3.server.studio.conversion import event_image, image_data_url
from emu3.server.studio.form_parts import (
    EVENT_OPTIONS,
    REQUEST_ERRORS,
    error_status,
    parse_integer,
    prompt_field,
    ratio_field,
    sampling_fields,
    seed_field,
    stream_updates,
)
from emu3.server.studio.history import HistoryItem, add_item, store_image
from emu3.server.studio.html import (
    download_link,
    figure,
    format_duration,
    frame,
    image_grid,
    image_tag,
    placeholder,
    status_line,
)
from emu3.server.studio.session import TabSession

PLACEHOLDER = "The image appears here, row by row."
EXAMPLES = (
    "a red apple, masterpiece still life",
    "a lighthouse at dusk, oil painting",
    "a fox in fresh snow",
)
DEMO_EXAMPLES = (
    "a red apple, noto style",
    "a tiger, fluent style",
    "a sunflower, twemoji style",
    "a red heart, noto style",
)
MAX_PARTIAL_IMAGES = 15  # per image
SCROLL_TO_OUTPUT = (
    "() => document.querySelector('#image-output').scrollIntoView({block: 'nearest'})"
)
"""On a phone the output lies below the form."""


@dataclass(frozen=True)
class ImageForm:
    """Values of the form's fields, in their order. None stands for the checkpoint's default.

    `top_k`, `seed` and `num_images` may be text; no seed stands for a random one.
    """

    prompt: str | None
    negative_prompt: str | None = None
    ratio: str = "1:1"
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | str | None = None
    seed: int | str | None = None
    num_images: int | str | None = 1


@dataclass
class ImageProgress:
    """One of the requested images while it is generated. `size` is (width, height) in pixels."""

    seed: int
    size: tuple[int, int]
    rows_done: int = 0  # rows of codes
    url: str = ""
    height: float = 0.0  # of the image at `url`, as a fraction of `size`
    item: HistoryItem | None = None  # once the image is complete

    def html(self, prompt: str, total_rows: int) -> str:
        """The part that is complete, with the seed below it."""
        style = f'style="height:{100 * self.height:.2f}%"'
        content = image_tag(self.url, prompt, self.size, style) if self.url else ""
        link = download_link(self.item.url, self.item.file_name) if self.item else ""
        box = frame(content, self.size, self.rows_done / total_rows)
        return figure(box, f"seed {self.seed}", link)


def build(context: StudioContext, history: Any) -> tuple[list[Any], list[Any]]:
    """Add the tab's components. `history` is the page's `gr.State` of HistoryItems.

    Returns the fields, in the order of `ImageForm`, and the events that add to the history.
    """
    import gradio as gr

    session = gr.State(TabSession())
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(min_width=300, elem_classes="fields"):
            examples = DEMO_EXAMPLES if context.is_demo_model else EXAMPLES
            prompt = prompt_field(context, examples, "image-prompt")
            with gr.Row(elem_classes="buttons"):
                generate = gr.Button("Generate", variant="primary", elem_id="image-generate")
                cancel = gr.Button("Cancel", interactive=False, elem_id="image-cancel")
            fields = [prompt, *_other_fields(context)]
        with gr.Column(min_width=300):
            output = gr.HTML(placeholder(PLACEHOLDER), elem_id="image-output")
            status = gr.HTML(elem_id="image-status")

    async def run(*values: Any) -> AsyncIterator[tuple[Any, ...]]:
        *form, tab_session, items = values
        updates = generate_images(context, ImageForm(*form), tab_session, items)
        async for outputs in stream_updates(updates):
            yield outputs

    inputs, outputs = [*fields, session, history], [output, status, cancel]
    clicked = generate.click(run, inputs, outputs, api_name="generate_image", **EVENT_OPTIONS)
    entered = prompt.submit(run, inputs, outputs, api_name=False, **EVENT_OPTIONS)
    cancel.click(TabSession.cancel, session, None, api_name="cancel_image", **EVENT_OPTIONS)
    generate.click(None, None, None, js=SCROLL_TO_OUTPUT, api_name=False)
    return fields, [clicked, entered]


def _other_fields(context: StudioContext) -> list[Any]:
    """Fields below the buttons, in the order of `ImageForm`."""
    import gradio as gr

    max_images = context.settings.max_n
    with gr.Row():
        ratio = ratio_field("image-ratio")
        seed = seed_field("image-seed")
    num_images = gr.Slider(
        1, max(2, max_images), 1, step=1, label="Number of images", visible=max_images > 1
    )
    with gr.Accordion("More settings", open=False, elem_id="image-more"):
        negative_prompt, guidance_scale, temperature, top_k = sampling_fields(context)
    return [negative_prompt, ratio, guidance_scale, temperature, top_k, seed, num_images]


async def generate_images(
    context: StudioContext, form: ImageForm, session: TabSession, history: list[HistoryItem]
) -> AsyncIterator[tuple[str, str]]:
    """Yield the HTML of the images and a status line whenever one of them changes.

    Complete images are added to `history`. Errors end the iteration with a status line.
    """
    images, total_rows, start = list[ImageProgress](), 1, time.monotonic()
    connection = session.start_request()

    def html() -> str:
        cells = (each.html(str(form.prompt), total_rows) for each in images)
        return image_grid(cells, "single" if len(images) == 1 else "")

    try:
        requests = build_requests(context, form)
        size = requests[0].size
        assert size is not None
        total_rows = size[1] // context.spatial_factor
        images = [ImageProgress(request.seed, size) for request in requests]
        stream = EventStream(context.engine, requests, context.settings, context.metrics)
        yield html(), status_line("queued")
        async for index, event in stream.events(connection.receive):
            image = images[index]
            if isinstance(event, RowProgress):
                image.rows_done = event.done
            elif isinstance(event, PartialImage):
                partial = event_image(event)
                image.url = await asyncio.to_thread(image_data_url, partial)
                image.height = partial.height / size[1]
            elif isinstance(event, ImageResult):
                settings = image_settings(context, form, requests[index])
                image.item = await asyncio.to_thread(
                    store_image, context.media_cache, event_image(event), settings
                )
                image.url, image.height, image.rows_done = image.item.url, 1.0, total_rows
                add_item(history, image.item)
            yield html(), status_line(progress(images, total_rows, time.monotonic() - start))
        yield html(), status_line(summary(images, time.monotonic() - start))
    except REQUEST_ERRORS as error:
        yield html(), error_status(error)


def build_requests(context: StudioContext, form: ImageForm) -> tuple[ImageRequest, ...]:
    """Return the engine requests of a form, validated as an API request is. Raises APIError."""
    width, height = context.image_size(str(form.ratio))
    values = {
        "prompt": form.prompt,
        "negative_prompt": form.negative_prompt,
        "n": parse_integer("n", form.num_images),
        "size": f"{width}x{height}",
        "seed": parse_integer("seed", form.seed),
        "guidance_scale": form.guidance_scale,
        "temperature": form.temperature,
        "top_k": parse_integer("top_k", form.top_k),
    }
    body = validate(ImageGenerationRequest, values, context.settings)
    partials = min(MAX_PARTIAL_IMAGES, height // context.spatial_factor - 1)
    requests = image_requests(body, context.defaults)
    return tuple(replace(request, partials=partials) for request in requests)


def image_settings(context: StudioContext, form: ImageForm, request: ImageRequest) -> ImageSettings:
    """Return the metadata of an image, equal to that of `emu3 image`."""
    checkpoint = context.engine.checkpoint
    assert request.sampling is not None
    generation = context.defaults.resolve(
        negative_prompt=request.negative_prompt,
        guidance_scale=request.guidance_scale,
        **asdict(request.sampling),
    )
    return ImageSettings(
        prompt=request.prompt,
        ratio=form.ratio,
        area=context.image_area,
        seed=request.seed,
        model=checkpoint.name,
        dtype=checkpoint.precision,
        **asdict(generation),
    )


def progress(images: list[ImageProgress], total_rows: int, seconds: float) -> str:
    """Return the rows done so far and an estimate of the remaining time."""
    done, total = sum(image.rows_done for image in images), total_rows * len(images)
    if not done:
        return "processing the prompt"
    remaining = seconds * (total - done) / done
    return f"row {done} of {total} · about {format_duration(remaining)} left"


def summary(images: list[ImageProgress], seconds: float) -> str:
    """Return the number and size of the images and the time they took."""
    count = "1 image" if len(images) == 1 else f"{len(images)} images"
    width, height = images[0].size
    return f"{count} of {width}×{height} in {format_duration(seconds)}"
