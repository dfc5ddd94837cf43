"""A picture as its codes, and what becomes of it when one is replaced."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from PIL import Image, ImageChops

from emu3.inference.requests import TokenizeRequest, TokenizeResult
from emu3.server.errors import invalid_request
from emu3.server.event_stream import ClientDisconnected, EventStream
from emu3.server.media import decode_image_data_url
from emu3.server.studio.context import Room
from emu3.server.studio.session import Seat

Codes = tuple[tuple[int, ...], ...]  # [h][w]
FAINT = 4  # times that differences are made stronger, to be seen


@dataclass
class Sheet:
    """Codes as they came, as they are now, and both as pictures; one place is chosen."""

    first: Codes = ()
    before: Image.Image | None = None
    codes: Codes = ()
    after: Image.Image | None = None
    place: tuple[int, int] = (0, 0)  # row, column
    history: list[Codes] = field(default_factory=list)

    @property
    def code(self) -> int:
        """The code at the place chosen."""
        row, column = self.place
        return self.codes[row][column]

    @property
    def changed(self) -> int:
        """How many codes are not what they were."""
        pairs = zip(self.first, self.codes, strict=True)
        return sum(a != b for rows in pairs for a, b in zip(*rows, strict=True))

    def choose(self, row: int, column: int) -> None:
        """Choose a place; one that is not there is not chosen."""
        if self.codes and 0 <= row < len(self.codes) and 0 <= column < len(self.codes[0]):
            self.place = row, column

    def difference(self) -> Image.Image:
        """Where the pictures differ, on black, made stronger."""
        assert self.before is not None and self.after is not None
        return ImageChops.difference(self.before, self.after).point(lambda v: min(255, FAINT * v))

    def pixels_changed(self) -> int:
        """How many pixels differ at all."""
        assert self.before is not None and self.after is not None
        apart = ImageChops.difference(self.before, self.after).convert("RGB")
        bands = [band.point(lambda v: 255 if v else 0) for band in apart.split()]
        any_band = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
        return any_band.histogram()[255]


async def turned(room: Room, source: Image.Image | Codes, seat: Seat) -> TokenizeResult:
    """Codes and their picture, from either. Raises APIError, ClientDisconnected."""
    following = EventStream(room.engine, (TokenizeRequest(source),), room.settings)
    async for _, told in following.events(seat.sit()):
        if isinstance(told, TokenizeResult):
            return told
    raise ClientDisconnected


async def opened(room: Room, source: str, seat: Seat) -> Sheet:
    """The sheet of a picture, a data URL. Raises APIError, ClientDisconnected."""
    if not source:
        raise invalid_request(None, "drop a picture first")
    picture = await asyncio.to_thread(decode_image_data_url, source, "picture", room.settings)
    told = await turned(room, picture, seat)
    middle = len(told.codes) // 2, len(told.codes[0]) // 2
    return Sheet(told.codes, told.picture, told.codes, told.picture, middle)


async def changed(room: Room, sheet: Sheet, codes: Codes, seat: Seat) -> None:
    """Give a sheet other codes, and see what they look like. Raises APIError, ClientDisconnected."""
    told = await turned(room, codes, seat)
    sheet.codes, sheet.after = told.codes, told.picture


def replaced(sheet: Sheet, code: int, size: int) -> Codes:
    """The codes with another one at the place chosen. Raises APIError where there is none such."""
    if not sheet.codes:
        raise invalid_request(None, "drop a picture first")
    if not 0 <= code < size:
        raise invalid_request("code", f"must lie in 0 to {size - 1}")
    row, column = sheet.place
    line = sheet.codes[row]
    new = (*line[:column], code, *line[column + 1 :])
    return (*sheet.codes[:row], new, *sheet.codes[row + 1 :])
