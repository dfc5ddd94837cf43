"""The Video tab: text to video, optionally from a first frame, and extension of the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from emu3.inference.events import VideoFrames, VideoResult
from emu3.inference.requests import VideoRequest
from emu3.processing.document_format import VideoCodes
from emu3.server.errors import invalid_request
from emu3.server.event_stream import EventStream
from emu3.server.request_body import validate
from emu3.server.routes.videos import extension_request, video_request
from emu3.server.schemas import VideoExtensionRequest, VideoGenerationRequest
from emu3.server.studio.context import StudioContext
from emu3.server.studio.conversion import frame_images, image_data_url
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
from emu3.server.studio.history import HistoryItem, add_item, store_video
from emu3.server.studio.html import (
    download_link,
    figure,
    format_duration,
    frame,
    image_grid,
    image_tag,
    placeholder,
    status_line,
    video_tag,
)
from emu3.server.studio.session import TabSession
from emu3.server.studio.upload import upload_field

PLACEHOLDER = "The video appears here, four frames at a time."
EXAMPLES = ("waves roll onto a beach at dusk", "a cat walks through fresh snow")
DEMO_EXAMPLES = ("a red apple moves right, noto style", "a red car drives by")
MAX_SECONDS = 10.0  # of the slider; the length of a video is limited by max_frames
STRIP_LENGTH = 8  # thumbnails of earlier frames


@dataclass(frozen=True)
class VideoForm:
    """Values of the form's fields, in their order. None stands for the checkpoint's default.

    `top_k` and `seed` may be text; no seed stands for a random one.
    """

    prompt: str | None
    negative_prompt: str | None = None
    ratio: str = "1:1"
    seconds: float = 2.0
    first_frame: str | None = ""  # a data URL; its size is used instead of `ratio`
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | str | None = None
    seed: int | str | None = None


@dataclass
class LastVideo:
    """The last video of a page, which Extend continues: its codes and its prompt."""

    codes: VideoCodes | None = None
    prompt: str = ""


def build(context: StudioContext, history: Any) -> list[Any]:
    """Add the tab's components. `history` is the page's `gr.State` of HistoryItems.

    Returns the events that add to the history.
    """
    import gradio as gr

    session, last_video = gr.State(TabSession()), gr.State(LastVideo())
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(min_width=300, elem_classes="fields"):
            fields = _fields(context)
            with gr.Row(elem_classes="buttons"):
                generate = gr.Button("Generate", variant="primary", elem_id="video-generate")
                extend = gr.Button("Extend", interactive=False, elem_id="video-extend")
                cancel = gr.Button("Cancel", interactive=False, elem_id="video-cancel")
        with gr.Column(min_width=300):
            output = gr.HTML(placeholder(PLACEHOLDER), elem_id="video-output")
            status = gr.HTML(elem_id="video-status")

    async def run(is_extension: bool, values: tuple[Any, ...]) -> AsyncIterator[tuple[Any, ...]]:
        *form, tab_session, last, items = values

        def extend_button(is_last: bool) -> tuple[Any, ...]:
            can_extend = gr.update(interactive=last.codes is not None)
            return (can_extend if is_last else gr.skip(),)

        updates = generate_video(
            context, VideoForm(*form), last, tab_session, items, is_extension=is_extension
        )
        async for outputs in stream_updates(updates, extend_button):
            yield outputs

    async def run_generate(*values: Any) -> AsyncIterator[tuple[Any, ...]]:
        async for outputs in run(False, values):
            yield outputs

    async def run_extend(*values: Any) -> AsyncIterator[tuple[Any, ...]]:
        async for outputs in run(True, values):
            yield outputs

    inputs, outputs = [*fields, session, last_video, history], [output, status, cancel, extend]
    generated = generate.click(
        run_generate, inputs, outputs, api_name="generate_video", **EVENT_OPTIONS
    )
    extended = extend.click(run_extend, inputs, outputs, api_name="extend_video", **EVENT_OPTIONS)
    cancel.click(TabSession.cancel, session, None, api_name="cancel_video", **EVENT_OPTIONS)
    return [generated, extended]


def _fields(context: StudioContext) -> list[Any]:
    """The form's fields, in the order of `VideoForm`."""
    import gradio as gr

    examples = DEMO_EXAMPLES if context.is_demo_model else EXAMPLES
    prompt = prompt_field(context, examples, "video-prompt")
    first_frame = upload_field("First frame (optional)", context.settings.max_body, "video-upload")
    with gr.Row():
        seconds = gr.Slider(0.5, MAX_SECONDS, 2.0, step=0.5, label="Seconds", min_width=120)
        seed = seed_field("video-seed")
    with gr.Accordion("More settings", open=False):
        ratio = ratio_field("video-ratio")
        negative_prompt, guidance_scale, temperature, top_k = sampling_fields(context)
    return [
        prompt,
        negative_prompt,
        ratio,
        seconds,
        first_frame,
        guidance_scale,
        temperature,
        top_k,
        seed,
    ]


async def generate_video(
    context: StudioContext,
    form: VideoForm,
    last_video: LastVideo,
    session: TabSession,
    history: list[HistoryItem],
    *,
    is_extension: bool = False,
) -> AsyncIterator[tuple[str, str]]:
    """Yield HTML and a status line as frames are generated, the complete video last.

    The video is added to `history` and replaces `last_video`. Errors end the iteration with a
    status line. With `is_extension` the video continues `last_video`.
    """
    connection, start = session.start_request(), time.monotonic()
    frames, html = list[Image.Image](), ""
    yield html, status_line("queued")
    try:
        previous = last_video if is_extension else None
        request = await asyncio.to_thread(build_request, context, form, previous)
        stream = EventStream(context.engine, (request,), context.settings, context.metrics)
        async for _, event in stream.events(connection.receive):
            if isinstance(event, VideoFrames):
                frames += frame_images(event)
                html = await asyncio.to_thread(partial_html, frames, event.done / event.total)
                remaining = (time.monotonic() - start) * (event.total - event.done) / event.done
                text = f"{len(frames)} frames · about {format_duration(remaining)} left"
                yield html, status_line(text)
            elif isinstance(event, VideoResult):
                item = await asyncio.to_thread(store_video, context.media_cache, event)
                add_item(history, item)
                last_video.codes, last_video.prompt = event.video_codes, event.settings.prompt
                html = complete_html(item)
                duration = format_duration(time.monotonic() - start)
                text = f"{len(event.frames)} frames at {event.fps:g} fps in {duration}"
                yield html, status_line(f"{text} · seed {event.settings.seed}")
    except REQUEST_ERRORS as error:
        yield html, error_status(error)


def build_request(
    context: StudioContext, form: VideoForm, previous: LastVideo | None
) -> VideoRequest:
    """Return the engine request of a form, validated as an API request is.

    With `previous` it is the extension of that video. Raises APIError.
    """
    values: dict[str, Any] = {
        "prompt": form.prompt or "",
        "negative_prompt": form.negative_prompt,
        "seconds": form.seconds,
        "guidance_scale": form.guidance_scale,
        "temperature": form.temperature,
        "top_k": parse_integer("top_k", form.top_k),
        "seed": parse_integer("seed", form.seed),
    }
    settings = context.settings
    if previous is not None:
        if previous.codes is None:
            raise invalid_request(None, "there is no video to extend; generate one first")
        extension = validate(VideoExtensionRequest, values, settings)
        return extension_request(
            extension, previous.codes, extension.prompt, context.defaults, settings
        )
    if form.first_frame:
        values["input_reference"] = form.first_frame
    else:
        values["size"] = "{}x{}".format(*context.image_size(str(form.ratio)))
    body = validate(VideoGenerationRequest, values, settings)
    return video_request(body, context.defaults, settings)


def partial_html(frames: list[Image.Image], progress: float) -> str:
    """Return the newest frame with a progress bar, and thumbnails of earlier frames."""
    newest = frames[-1]
    image = image_tag(image_data_url(newest), "the newest frame", newest.size)
    step = max(1, len(frames) // STRIP_LENGTH)
    thumbnails = (
        frame(image_tag(image_data_url(each), "an earlier frame", each.size), each.size)
        for each in frames[::step][-STRIP_LENGTH:]
    )
    large = figure(frame(image, newest.size, progress), "")
    return image_grid([large], "single") + image_grid(thumbnails, "frame-strip")


def complete_html(item: HistoryItem) -> str:
    """Return the player of a video, with its download link."""
    label = str(item.settings.get("prompt") or "the video")
    video = frame(video_tag(item.url, label, item.size), item.size)
    return image_grid([figure(video, "", download_link(item.url, item.file_name))], "single")
