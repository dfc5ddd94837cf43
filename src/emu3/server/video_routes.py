"""What is behind each path under `/v1/videos`."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from emu3.inference.async_engine import AsyncEngine
from emu3.processing.video import read_frames
from emu3.server import videos
from emu3.server.fields import Fields
from emu3.server.film import Films
from emu3.server.problems import Problem, bad
from emu3.server.reels import Screen
from emu3.server.settings import Settings

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
    films: Films | None  # None where the model draws none
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

    def there(self) -> Films:
        """The films. Raises Problem where the model draws none."""
        if self.films is None:
            raise bad(None, f"{self.settings.model} was not made for this task ({FILMS})")
        return self.films

    async def create(self, request: Request) -> Response:
        """Words, and perhaps a first picture, to a job."""
        fields, films = await self.fields(request, FILMS, videos.NUMBERS), self.there()

        def create() -> dict[str, Any]:
            order = videos.read_order(fields, self.engine, self.settings)
            return videos.add(films, order)

        return await answered(create)

    async def extend(self, request: Request) -> Response:
        """What comes behind a completed one, or behind a clip that was sent, to a job."""
        fields, films = await self.fields(request, FILMS, videos.NUMBERS), self.there()
        name = request.path_params.get("name")

        def extend() -> dict[str, Any]:
            screen = Screen(self.engine.checkpoint.vision_processor.preprocessor, self.settings)
            source = videos.read_source(fields, screen) if name is None else name
            before = None
            if isinstance(source, str):
                job = videos.completed(films, source)
                source, before = films.made(job), job.prompt
            order = videos.read_extension(fields, self.engine, self.settings, source, before)
            return videos.add(films, order)

        return await answered(extend)

    async def list(self, request: Request) -> Response:
        """All of them, page by page."""
        films, query = self.there(), request.query_params
        return await answered(lambda: videos.page(films, query))

    async def retrieve(self, request: Request) -> Response:
        """One of them."""
        films, name = self.there(), request.path_params["name"]
        return await answered(lambda: videos.described(films, videos.found(films, name)))

    async def delete(self, request: Request) -> Response:
        """One of them less."""
        films, name = self.there(), request.path_params["name"]
        return await answered(lambda: videos.delete(films, name))

    async def content(self, request: Request) -> Response:
        """The clip itself, its first frame, or some of its frames side by side."""
        from starlette.responses import FileResponse, Response

        films, name = self.there(), request.path_params["name"]
        fields = Fields(dict(request.query_params))
        variant = fields.choice("variant", videos.VARIANTS, "video")
        fields.done()
        job = await asyncio.to_thread(videos.completed, films, name)
        path = films.jobs.clip(job.id)
        try:
            if variant != "video":
                make, media = STILLS[variant]
                return Response(await asyncio.to_thread(make, path), media_type=media)
            stat = await asyncio.to_thread(path.stat)
        except FileNotFoundError:
            raise Problem(404, "this video is gone", "video_id", "video_not_found") from None
        return FileResponse(
            path,
            media_type="video/mp4",
            stat_result=stat,
            filename=path.name,
            content_disposition_type="inline",
        )

    async def remix(self, request: Request) -> Response:
        """Refused, with the reason."""
        raise bad(None, f"not supported: {videos.REMIX}", "unsupported")


async def answered(work: Callable[[], dict[str, Any]]) -> Response:
    """What work in a thread gives: it unpacks pictures, and waits for a disk."""
    from starlette.responses import JSONResponse

    return JSONResponse(await asyncio.to_thread(work))


def thumbnail(path: Path) -> bytes:
    """The first frame of a clip as WebP. Raises FileNotFoundError."""
    path.stat()
    return saved(Image.fromarray(next(iter(read_frames(path)))), "WEBP")


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
    return saved(sheet, "JPEG")


def saved(picture: Image.Image, kind: str) -> bytes:
    """A picture as a file of that kind."""
    out = io.BytesIO()
    picture.save(out, format=kind, quality=95)
    return out.getvalue()


STILLS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "thumbnail": (thumbnail, "image/webp"),
    "spritesheet": (spritesheet, "image/jpeg"),
}
"""Variants of a clip that are pictures: how they are made, and what they are."""
