"""`/v1/videos`: bodies to requests, and jobs to answers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from PIL import Image

from emu3.errors import InputError
from emu3.inference.async_engine import AsyncEngine
from emu3.inference.requests import EncodedVideo, VideoInput, VideoRequest, VideoSpec
from emu3.inference.validation import MAX_SEED
from emu3.inference.video_request import FPS
from emu3.processing.video import MAX_FPS
from emu3.server.fields import ANY, Fields
from emu3.server.film import Films
from emu3.server.forms import Upload, number
from emu3.server.images import SEEDS, read_sampling, read_size
from emu3.server.jobs import ID, Job
from emu3.server.pictures import of_bytes, of_data_url
from emu3.server.problems import Problem, bad
from emu3.server.reels import Screen, too_many
from emu3.server.remote import fetch
from emu3.server.settings import Settings

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
    """A body to a video drawn from words, and perhaps from a first picture. Raises Problem."""
    prompt = read_prompt(fields, settings, None)
    size = read_size(fields, settings)
    fps = fields.number("fps", 0.001, MAX_FPS) or FPS
    image = read_picture(fields, settings)
    seconds = read_seconds(fields, fps, 0, settings)
    return read_rest(fields, engine, settings, prompt, seconds, fps=fps, size=size, image=image)


def read_extension(
    fields: Fields,
    engine: AsyncEngine,
    settings: Settings,
    footage: VideoInput | EncodedVideo,
    before: str | None,
) -> VideoRequest:
    """A body to what comes behind a clip; `before` is the prompt of one of ours. Raises Problem."""
    prompt, frames = read_prompt(fields, settings, before), footage.frames
    have = frames if isinstance(frames, int) else len(frames)
    seconds = read_seconds(fields, footage.fps, have, settings)
    return read_rest(fields, engine, settings, prompt, seconds, footage=footage)


def read_rest(
    fields: Fields,
    engine: AsyncEngine,
    settings: Settings,
    prompt: str,
    seconds: float,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    image: Image.Image | None = None,
    footage: VideoInput | EncodedVideo | None = None,
) -> VideoRequest:
    """What both kinds have, all of it read. Raises Problem on what is left."""
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
        footage=footage,
        seed=secrets.randbelow(SEEDS) if seed is None else seed,
        sampling=sampling,
        guidance=guidance,
        negative=negative,
    )


def check_pixels(measured: VideoSpec, settings: Settings) -> None:
    """Raise Problem on a video that could not be held."""
    pixels, most = measured.width * measured.height, settings.max_clip_pixels
    if pixels > settings.max_pixels:
        raise bad("size", f"{pixels} pixels, at most {settings.max_pixels} (limit max_pixels)")
    if pixels * measured.frames > most:
        raise bad(
            "seconds",
            f"{pixels * measured.frames} pixels in all frames, at most {most} "
            "(limit max_clip_pixels)",
        )


def read_prompt(fields: Fields, settings: Settings, default: str | None) -> str:
    """What is to be seen. Raises Problem."""
    prompt = fields.text("prompt", settings.max_prompt, "max_prompt")
    prompt = default if prompt is None else prompt
    if prompt is None or (default is None and not prompt.strip()):
        raise bad("prompt", "say what is to be seen")
    return prompt


def read_seconds(fields: Fields, fps: float, have: int, settings: Settings) -> float:
    """How long; a number, or one in a string as OpenAI has it. Raises Problem."""
    value = fields.left.get("seconds")
    if isinstance(value, str):
        fields.left["seconds"] = number(value)
    seconds = fields.number("seconds", 0, 1e6)
    seconds = SECONDS if seconds is None else seconds
    if seconds == 0:
        raise bad("seconds", "must be above 0")
    if have + seconds * fps > settings.max_frames:
        raise too_many("seconds", settings)
    return seconds


def read_picture(fields: Fields, settings: Settings) -> Image.Image | None:
    """The first picture: a file, a data URL, or an object with one. Raises Problem."""
    name = "input_reference"
    value = fields.take(name)
    if value is None:
        return None
    if isinstance(value, Upload):
        return of_bytes(value.data, name, settings)
    if isinstance(value, dict):
        inner = Fields(value, f"{name}.")
        if inner.take("file_id") is not None:
            raise bad(f"{name}.file_id", "this server keeps no files; send the picture itself")
        value = inner.take("image_url")
        inner.done()
    if not isinstance(value, str):
        raise bad(name, "must be a file, a data URL, or an object with image_url")
    if value[:5].lower() == "data:":
        return of_data_url(value, name, settings)
    return of_bytes(fetch(value, name, settings), name, settings)


def read_source(fields: Fields, screen: Screen) -> str | VideoInput:
    """What is to be extended: the id of a job, or a clip that was sent. Raises Problem.

    `fps` frames a second of a clip are looked at; its own rate may be one that no header has.
    """
    value = fields.take("video")
    if isinstance(value, Upload):
        return screen.of_bytes(value.data, "video", fields.number("fps", 0.001, MAX_FPS))
    if isinstance(value, dict):
        inner = Fields(value, "video.")
        value = inner.take("id")
        inner.done()
    if not isinstance(value, str):
        raise bad("video", "must be a file, or an object with the id of a video")
    if value[:5].lower() == "data:":
        return screen.of_data_url(value, "video", fields.number("fps", 0.001, MAX_FPS))
    return value


def found(films: Films, name: object) -> Job:
    """A job by its id. Raises Problem where there is none."""
    films.forget()
    job = films.jobs.get(name) if isinstance(name, str) and ID.fullmatch(name) else None
    if job is None:
        raise Problem(404, "no such video", "video_id", "video_not_found")
    return job


def completed(films: Films, name: object) -> Job:
    """A job that is done. Raises Problem."""
    job = found(films, name)
    if job.status == "failed":
        raise bad("video_id", f"this video could not be made: {job.error}", "video_failed")
    if job.status != "completed":
        raise bad("video_id", "this video is not made yet; ask again later", "video_not_completed")
    return job


def add(films: Films, request: VideoRequest) -> dict[str, Any]:
    """Queue a video up. Raises Problem."""
    try:
        measured = films.measure(request)
    except InputError as error:
        raise bad(None, str(error)) from None
    check_pixels(measured, films.settings)
    job = films.add(request, measured)
    if job is None:
        said = f"{films.settings.max_jobs} videos are waiting already (limit max_jobs)"
        wait = {"Retry-After": str(films.settings.retry_after)}
        raise Problem(429, said, code="queue_full", headers=wait)
    return described(films, job)


def page(films: Films, query: Mapping[str, str]) -> dict[str, Any]:
    """A part of the list of jobs. Raises Problem."""
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


def delete(films: Films, name: object) -> dict[str, Any]:
    """Forget one. Raises Problem."""
    job = found(films, name)
    films.delete(job)
    return {"id": job.id, "object": "video.deleted", "deleted": True}


def described(films: Films, job: Job) -> dict[str, Any]:
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
