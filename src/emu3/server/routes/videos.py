"""`/v1/videos`: bodies to requests, and jobs to answers."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine
from emu3.inference.events import VideoSpec
from emu3.inference.requests import VideoInput, VideoRequest
from emu3.inference.validation import MAX_SEED
from emu3.inference.video import DEFAULT_FPS
from emu3.processing.document_format import VideoCodes
from emu3.processing.video import MAX_FPS, read_frames
from emu3.server.errors import APIError, invalid_request
from emu3.server.fields import ANY, Fields
from emu3.server.forms import Upload, number
from emu3.server.job_store import ID, Job
from emu3.server.media import VideoDecoder, decode_image, encode_image, load_image, too_many_frames
from emu3.server.routes.images import SEEDS, read_sampling, read_size
from emu3.server.settings import Settings
from emu3.server.video_worker import VideoWorker

if TYPE_CHECKING:
    from fastapi import Request, Response

HARMLESS: dict[str, object] = {"user": ANY}
NUMBERS = ("seconds", "fps", "seed", "guidance_scale", "top_k", "temperature")
"""Fields that a form has as text."""

SECONDS = 2.0  # where nobody says, as in `Emu3.video`
REMIX = (
    "this model draws videos from words, and was not trained to change one; "
    "POST /v1/videos/{id}/extend goes on with it"
)

VARIANTS = ("video", "thumbnail", "spritesheet")


def read_order(fields: Fields, engine: AsyncEngine, settings: Settings) -> VideoRequest:
    """A body to a video drawn from words, and perhaps from a first picture. Raises APIError."""
    prompt = read_prompt(fields, settings, None)
    size = read_size(fields, settings)
    fps = fields.number("fps", 0.001, MAX_FPS) or DEFAULT_FPS
    image = read_picture(fields, settings)
    seconds = read_seconds(fields, fps, 0, settings)
    return read_rest(fields, engine, settings, prompt, seconds, fps=fps, size=size, image=image)


def read_extension(
    fields: Fields,
    engine: AsyncEngine,
    settings: Settings,
    footage: VideoInput | VideoCodes,
    before: str | None,
) -> VideoRequest:
    """A body to what comes behind a clip; `before` is the prompt of one of ours. Raises APIError."""
    prompt = fields.text("prompt", settings.max_prompt, "max_prompt")
    prompt, frames = before if prompt is None else prompt, footage.frames
    have = frames if isinstance(frames, int) else len(frames)
    seconds = read_seconds(fields, footage.fps, have, settings)
    return read_rest(fields, engine, settings, prompt, seconds, video=footage)


def read_rest(
    fields: Fields,
    engine: AsyncEngine,
    settings: Settings,
    prompt: str | None,
    seconds: float,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    image: Image.Image | None = None,
    video: VideoInput | VideoCodes | None = None,
) -> VideoRequest:
    """What both kinds have, all of it read. Raises APIError on what is left."""
    negative = fields.text("negative_prompt", settings.max_prompt, "max_prompt")
    seed = fields.integer("seed", 0, MAX_SEED - 1)
    guidance = fields.number("guidance_scale", 0, settings.max_guidance, "max_guidance")
    sampling = read_sampling(fields, engine)
    fields.ignore(HARMLESS)
    fields.done()
    return VideoRequest(
        prompt,
        seconds,
        fps,
        size,
        image=image,
        video=video,
        seed=secrets.randbelow(SEEDS) if seed is None else seed,
        sampling=sampling,
        guidance_scale=guidance,
        negative_prompt=negative,
    )


def check_pixels(measured: VideoSpec, settings: Settings) -> None:
    """Raise APIError on a video that could not be held."""
    pixels, most = measured.width * measured.height, settings.max_video_pixels
    if pixels > settings.max_pixels:
        raise invalid_request(
            "size", f"{pixels} pixels, at most {settings.max_pixels} (limit max_pixels)"
        )
    if pixels * measured.frames > most:
        raise invalid_request(
            "seconds",
            f"{pixels * measured.frames} pixels in all frames, at most {most} "
            "(limit max_video_pixels)",
        )


def read_prompt(fields: Fields, settings: Settings, default: str | None) -> str:
    """What is to be seen. Raises APIError."""
    prompt = fields.text("prompt", settings.max_prompt, "max_prompt")
    prompt = default if prompt is None else prompt
    if prompt is None or (default is None and not prompt.strip()):
        raise invalid_request("prompt", "say what is to be seen")
    return prompt


def read_seconds(fields: Fields, fps: float, have: int, settings: Settings) -> float:
    """How long; a number, or one in a string as OpenAI has it. Raises APIError."""
    value = fields.left.get("seconds")
    if isinstance(value, str):
        fields.left["seconds"] = number(value)
    seconds = fields.number("seconds", 0, 1e6)
    seconds = SECONDS if seconds is None else seconds
    if seconds == 0:
        raise invalid_request("seconds", "must be above 0")
    if have + seconds * fps > settings.max_frames:
        raise too_many_frames("seconds", settings)
    return seconds


def read_picture(fields: Fields, settings: Settings) -> Image.Image | None:
    """The first picture: a file, a data URL, or an object with one. Raises APIError."""
    name = "input_reference"
    value = fields.take(name)
    if value is None:
        return None
    if isinstance(value, Upload):
        return decode_image(value.data, name, settings)
    if isinstance(value, dict):
        inner = Fields(value, f"{name}.")
        if inner.take("file_id") is not None:
            raise invalid_request(
                f"{name}.file_id", "this server keeps no files; send the picture itself"
            )
        value = inner.take("image_url")
        inner.done()
    if not isinstance(value, str):
        raise invalid_request(name, "must be a file, a data URL, or an object with image_url")
    return load_image(value, name, settings)


def read_source(fields: Fields, decoder: VideoDecoder) -> str | VideoInput:
    """What is to be extended: the id of a job, or a clip that was sent. Raises APIError.

    `fps` frames a second of a clip are looked at; its own rate may be one that no header has.
    """
    value = fields.take("video")
    if isinstance(value, Upload):
        return decoder.decode(value.data, "video", fields.number("fps", 0.001, MAX_FPS))
    if isinstance(value, dict):
        inner = Fields(value, "video.")
        value = inner.take("id")
        inner.done()
    if not isinstance(value, str):
        raise invalid_request("video", "must be a file, or an object with the id of a video")
    if value[:5].lower() == "data:":
        return decoder.decode_data_url(value, "video", fields.number("fps", 0.001, MAX_FPS))
    return value


def found(films: VideoWorker, name: object) -> Job:
    """A job by its id. Raises APIError where there is none."""
    films.forget()
    job = films.jobs.get(name) if isinstance(name, str) and ID.fullmatch(name) else None
    if job is None:
        raise APIError(404, "no such video", "video_id", "video_not_found")
    return job


def completed(films: VideoWorker, name: object) -> Job:
    """A job that is done. Raises APIError."""
    job = found(films, name)
    if job.status == "failed":
        raise invalid_request(
            "video_id", f"this video could not be made: {job.error}", "video_failed"
        )
    if job.status != "completed":
        raise invalid_request(
            "video_id", "this video is not made yet; ask again later", "video_not_completed"
        )
    return job


def add(films: VideoWorker, request: VideoRequest) -> dict[str, Any]:
    """Queue a video up. Raises APIError."""
    try:
        measured = films.measure(request)
    except InputError as error:
        raise invalid_request(None, str(error)) from None
    check_pixels(measured, films.settings)
    job = films.add(request, measured)
    if job is None:
        said = f"{films.settings.max_jobs} videos are waiting already (limit max_jobs)"
        wait = {"Retry-After": str(films.settings.retry_after)}
        raise APIError(429, said, code="queue_full", headers=wait)
    return described(films, job)


def page(films: VideoWorker, query: Mapping[str, str]) -> dict[str, Any]:
    """A part of the list of jobs. Raises APIError."""
    asked: dict[str, Any] = dict(query)
    if "limit" in asked:
        asked["limit"] = number(asked["limit"])
    fields = Fields(asked)
    most = fields.integer("limit", 1, 100) or 20
    order = fields.choice("order", ("asc", "desc"), "desc")
    name = fields.text("after", 100)
    fields.done()
    after = None if name is None else found(films, name)
    films.forget()
    jobs = films.jobs.page(most + 1, after, newest_first=order == "desc")
    shown = [described(films, job) for job in jobs[:most]]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(jobs) > most,
    }


def delete(films: VideoWorker, name: object) -> dict[str, Any]:
    """Forget one. Raises APIError."""
    job = found(films, name)
    films.delete(job)
    return {"id": job.id, "object": "video.deleted", "deleted": True}


def described(films: VideoWorker, job: Job) -> dict[str, Any]:
    """A job as OpenAI's clients read it."""
    status, progress = films.progress(job)
    error = None if job.error is None else {"code": "video_failed", "message": job.error}
    return {
        "id": job.id,
        "object": "video",
        "model": films.settings.model,
        "status": status,
        "progress": progress,
        "created_at": job.created,
        "completed_at": job.completed if status == "completed" else None,
        "expires_at": films.expires(job),
        "prompt": job.prompt,
        "seconds": job.seconds,
        "size": job.size,
        "remixed_from_video_id": None,
        "error": error,
    }


if TYPE_CHECKING:
    from fastapi import Request, Response

FILMS = "video"  # the task of a card
SPRITES = 4  # frames along a side of a spritesheet, at most
Endpoint = Callable[["Request"], Awaitable["Response"]]


@dataclass(frozen=True)
class VideoRoutes:
    """Endpoints; `fields` reads a body, form or JSON, for a task, given the names of numbers."""

    engine: AsyncEngine
    settings: Settings
    films: VideoWorker | None  # None where the model draws none
    fields: Callable[[Any, str, Collection[str]], Awaitable[Fields]]

    def paths(self) -> tuple[tuple[str, str, Endpoint], ...]:
        """Path, method and endpoint."""
        return (
            ("/v1/videos", "POST", self.create),
            ("/v1/videos", "GET", self.list),
            ("/v1/videos/extensions", "POST", self.extend),
            ("/v1/videos/edits", "POST", self.remix),
            ("/v1/videos/characters", "POST", self.remix),
            ("/v1/videos/{name}", "GET", self.retrieve),
            ("/v1/videos/{name}", "DELETE", self.delete),
            ("/v1/videos/{name}/content", "GET", self.content),
            ("/v1/videos/{name}/extend", "POST", self.extend),
            ("/v1/videos/{name}/remix", "POST", self.remix),
        )

    def there(self) -> VideoWorker:
        """The films. Raises APIError where the model draws none."""
        if self.films is None:
            raise invalid_request(
                None, f"{self.settings.model} was not made for this task ({FILMS})"
            )
        return self.films

    async def create(self, request: Request) -> Response:
        """Words, and perhaps a first picture, to a job."""
        fields, films = await self.fields(request, FILMS, NUMBERS), self.there()

        def create() -> dict[str, Any]:
            order = read_order(fields, self.engine, self.settings)
            return add(films, order)

        return await answered(create)

    async def extend(self, request: Request) -> Response:
        """What comes behind a completed one, or behind a clip that was sent, to a job."""
        fields, films = await self.fields(request, FILMS, NUMBERS), self.there()
        name = request.path_params.get("name")

        def extend() -> dict[str, Any]:
            decoder = VideoDecoder(
                self.engine.checkpoint.vision_processor.preprocessor, self.settings
            )
            source = read_source(fields, decoder) if name is None else name
            before = None
            if isinstance(source, str):
                job = completed(films, source)
                source, before = films.made(job), job.prompt
            order = read_extension(fields, self.engine, self.settings, source, before)
            return add(films, order)

        return await answered(extend)

    async def list(self, request: Request) -> Response:
        """All of them, page by page."""
        films, query = self.there(), request.query_params
        return await answered(lambda: page(films, query))

    async def retrieve(self, request: Request) -> Response:
        """One of them."""
        films, name = self.there(), request.path_params["name"]
        return await answered(lambda: described(films, found(films, name)))

    async def delete(self, request: Request) -> Response:
        """One of them less."""
        films, name = self.there(), request.path_params["name"]
        return await answered(lambda: delete(films, name))

    async def content(self, request: Request) -> Response:
        """The clip itself, its first frame, or some of its frames side by side."""
        from starlette.responses import FileResponse, Response

        films, name = self.there(), request.path_params["name"]
        fields = Fields(dict(request.query_params))
        variant = fields.choice("variant", VARIANTS, "video")
        fields.done()
        job = await asyncio.to_thread(completed, films, name)
        path = films.jobs.clip(job.id)
        try:
            if variant != "video":
                make, media = STILLS[variant]
                return Response(await asyncio.to_thread(make, path), media_type=media)
            stat = await asyncio.to_thread(path.stat)
        except FileNotFoundError:
            raise APIError(404, "this video is gone", "video_id", "video_not_found") from None
        return FileResponse(
            path,
            media_type="video/mp4",
            stat_result=stat,
            filename=path.name,
            content_disposition_type="inline",
        )

    async def remix(self, request: Request) -> Response:
        """Refused, with the reason."""
        raise invalid_request(None, f"not supported: {REMIX}", "unsupported")


async def answered(work: Callable[[], dict[str, Any]]) -> Response:
    """What work in a thread gives: it unpacks pictures, and waits for a disk."""
    from starlette.responses import JSONResponse

    return JSONResponse(await asyncio.to_thread(work))


def thumbnail(path: Path) -> bytes:
    """The first frame of a clip as WebP. Raises FileNotFoundError."""
    path.stat()
    return encode_image(Image.fromarray(next(iter(read_frames(path)))), "WEBP")


def spritesheet(path: Path) -> bytes:
    """Frames from the first to the last, at even distances, row by row: JPEG, 4 by 4 at most.

    Raises FileNotFoundError.
    """
    path.stat()
    count = sum(1 for _ in read_frames(path))
    shown = min(count, SPRITES**2)
    wanted = {round(k * (count - 1) / max(1, shown - 1)) for k in range(shown)}
    frames = [Image.fromarray(frame) for at, frame in enumerate(read_frames(path)) if at in wanted]
    across, (width, height) = math.ceil(math.sqrt(shown)), frames[0].size
    sheet = Image.new("RGB", (across * width, math.ceil(shown / across) * height))
    for place, frame in enumerate(frames):
        down, right = divmod(place, across)
        sheet.paste(frame, (right * width, down * height))
    return encode_image(sheet, "JPEG")


STILLS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "thumbnail": (thumbnail, "image/webp"),
    "spritesheet": (spritesheet, "image/jpeg"),
}
"""Variants of a clip that are pictures: how they are made, and what they are."""
