"""Codes on a page: those of the vision_processor, replaced one by one, and back again."""

from __future__ import annotations

import asyncio

import pytest

from emu3.server.errors import APIError
from emu3.server.studio.context import Room
from emu3.server.studio.session import Seat
from emu3.server.studio.tokens_handlers import Sheet, changed, opened, replaced
from emu3.server.studio.tokens_tab import grid_of, pictures_of, told

SIZE = 64


@pytest.fixture
def sheet(room: Room, photo: str) -> Sheet:
    return asyncio.run(opened(room, photo, Seat()))


def test_one_code_changes_what_is_near_it_and_undoing_brings_all_back(
    room: Room, sheet: Sheet
) -> None:
    assert sheet.changed == sheet.pixels_changed() == 0
    sheet.choose(1, 2)
    new = replaced(sheet, (sheet.code + 1) % SIZE, SIZE)
    assert (
        sum(
            a != b for x, y in zip(new, sheet.codes, strict=True) for a, b in zip(x, y, strict=True)
        )
        == 1
    )
    asyncio.run(changed(room, sheet, new, Seat()))
    assert sheet.changed == 1
    assert sheet.pixels_changed() > 0
    assert sheet.difference().getbbox() is not None
    assert "1 code changed" in told(sheet)
    asyncio.run(changed(room, sheet, sheet.first, Seat()))
    assert sheet.changed == sheet.pixels_changed() == 0


def test_the_grid_has_a_button_for_every_code(sheet: Sheet) -> None:
    html = grid_of(sheet)
    assert html.count("data-pick") == len(sheet.codes) * len(sheet.codes[0])
    assert html.count('class="chosen ') == 1
    assert f"code {sheet.code}" in html
    assert pictures_of(sheet).count("<figure>") == 3


def test_a_place_or_a_code_that_is_not_there_is_not_taken(sheet: Sheet) -> None:
    place = sheet.place
    for row, column in ((-1, 0), (0, -1), (99, 0), (0, 99)):
        sheet.choose(row, column)
    assert sheet.place == place
    for code in (-1, SIZE):
        with pytest.raises(APIError, match="0 to 63"):
            replaced(sheet, code, SIZE)
    with pytest.raises(APIError, match="drop a picture"):
        replaced(Sheet(), 0, SIZE)


def test_what_is_no_picture_is_said(room: Room) -> None:
    for source, says in (("", "drop a picture"), ("data:image/png;base64,AAAA", "not an image")):
        with pytest.raises(APIError, match=says):
            asyncio.run(opened(room, source, Seat()))
