"""Drawing: what the form says, and pictures that grow row by row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from emu3.errors import InputError
from emu3.inference.requests import ImageRequest, ImageResult, PartialImage, RowProgress
from emu3.outputs import ImageSettings
from emu3.processing.image import size_in_codes
from emu3.server.errors import APIError, invalid_request
from emu3.server.event_stream import ClientDisconnected, EventStream
from emu3.server.fields import Fields
from emu3.server.routes.images import read_order
from emu3.server.studio.context import Room
from emu3.server.studio.history import Kept, keep, keep_picture
from emu3.server.studio.html import data_url, download, figure, frame, grid, image, note
from emu3.server.studio.session import Seat

RATIOS = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")
PARTIALS = 15  # pictures on the way, of one picture at most


@dataclass(frozen=True)
class Wish:
    """What the form says. None stands for what suits the model, or for chance in a seed."""

    prompt: str
    negative: str | None = None
    ratio: str = "1:1"
    guidance: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    seed: int | None = None
    count: int = 1


@dataclass
class Cell:
    """One picture of the order, as far as it is."""

    seed: int
    size: tuple[int, int]
    done: int = 0  # rows
    url: str = ""
    share: float = 0.0  # of the height that the picture behind `url` has
    kept: Kept | None = None

    def html(self, prompt: str, rows: int) -> str:
        """The picture in its frame, and its seed."""
        style = f'style="height:{100 * self.share:.2f}%"'
        inner = image(self.url, prompt, self.size, style) if self.url else ""
        links = download(self.kept.url, self.kept.name) if self.kept else ""
        return figure(frame(inner, self.size, self.done / rows), f"seed {self.seed}", links)


def read_wish(room: Room, wish: Wish) -> tuple[ImageRequest, ...]:
    """The requests of a wish, through the same limits as those over HTTP. Raises APIError."""
    width, height = picture_size(room, wish.ratio)
    values = {
        "prompt": wish.prompt,
        "negative_prompt": wish.negative,
        "n": wish.count,
        "size": f"{width}x{height}",
        "seed": wish.seed,
        "guidance_scale": wish.guidance,
        "temperature": wish.temperature,
        "top_k": wish.top_k,
    }
    order = read_order(Fields(values), room.engine, room.settings)
    partials = min(PARTIALS, height // room.factor - 1)
    return tuple(replace(request, partials=partials) for request in order.requests)


def picture_size(room: Room, ratio: str) -> tuple[int, int]:
    """Width and height in pixels of what suits the model. Raises APIError."""
    try:
        height, width = size_in_codes(ratio, room.area, room.factor)
    except InputError as error:
        raise invalid_request("ratio", str(error)) from None
    return width * room.factor, height * room.factor


def settings_of(room: Room, wish: Wish, request: ImageRequest) -> ImageSettings:
    """What decides the picture, as `emu3 image` writes it down."""
    checkpoint, sampling = room.engine.checkpoint, request.sampling
    assert sampling is not None
    manner = room.defaults.resolve(
        negative_prompt=request.negative, guidance_scale=request.guidance, **asdict(sampling)
    )
    return ImageSettings(
        prompt=request.prompt,
        ratio=wish.ratio,
        area=room.area,
        seed=request.seed,
        model=checkpoint.name,
        dtype=checkpoint.precision,
        **asdict(manner),
    )


async def drawing(
    room: Room, wish: Wish, seat: Seat, kept: list[Kept]
) -> AsyncIterator[tuple[str, str]]:
    """Pictures and a line about them, again and again until they are done or given up."""
    cells, rows, start = list[Cell](), 1, time.monotonic()
    visitor = seat.sit()

    def shown() -> str:
        return grid((cell.html(wish.prompt, rows) for cell in cells), f"of-{len(cells)}")

    try:
        requests = read_wish(room, wish)
        size = requests[0].size
        assert size is not None
        rows = size[1] // room.factor
        cells = [Cell(request.seed, size) for request in requests]
        following = EventStream(room.engine, requests, room.settings)
        yield shown(), note("waiting for a place")
        async for index, told in following.events(visitor):
            cell = cells[index]
            if isinstance(told, RowProgress):
                cell.done = told.done
            elif isinstance(told, PartialImage):
                cell.url = await asyncio.to_thread(data_url, told.picture)
                cell.share = told.picture.height / cell.size[1]
            elif isinstance(told, ImageResult):
                settings = settings_of(room, wish, requests[index])
                cell.kept = await asyncio.to_thread(
                    keep_picture, room.shelf, told.picture, settings
                )
                cell.url, cell.share, cell.done = cell.kept.url, 1.0, rows
                keep(kept, cell.kept)
            yield shown(), note(progress(cells, rows, time.monotonic() - start))
        yield shown(), note(ending(cells, time.monotonic() - start))
    except ClientDisconnected:
        yield shown(), note("cancelled")
    except APIError as problem:
        yield shown(), note(problem.message, "problem")


def progress(cells: list[Cell], rows: int, seconds: float) -> str:
    """Rows done, and how long the rest may take."""
    done, total = sum(cell.done for cell in cells), rows * len(cells)
    if not done:
        return "reading the prompt"
    left = seconds * (total - done) / done
    return f"row {done} of {total} · about {duration(left)} left"


def ending(cells: list[Cell], seconds: float) -> str:
    """What came of it."""
    what = "1 picture" if len(cells) == 1 else f"{len(cells)} pictures"
    width, height = cells[0].size
    return f"{what} of {width}×{height} in {duration(seconds)}"


def duration(seconds: float) -> str:
    """Seconds, or minutes where there are many."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def wish_of(values: tuple[Any, ...]) -> Wish:
    """What the form's fields hold, in their order. Raises APIError on what is no number."""
    prompt, negative, ratio, guidance, temperature, top_k, seed, count = values
    return Wish(
        str(prompt or ""),
        negative,
        str(ratio),
        guidance,
        temperature,
        whole("top_k", top_k),
        whole("seed", seed),
        whole("n", count) or 1,
    )


def whole(name: str, value: Any) -> int | None:
    """A whole number out of a field; empty is None. Raises APIError."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    number = text.removesuffix(".0")
    if not number.isascii() or not number.isdecimal() or len(number) > 20:
        raise invalid_request(name, "must be a whole number, 0 or more")
    return int(number)
