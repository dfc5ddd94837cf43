"""Clips on a page: the clip that `Emu3.video` draws, four frames at a time, and what goes on."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import pytest

from emu3.api import Emu3
from emu3.processing.video import read_settings
from emu3.server.studio.context import Room
from emu3.server.studio.history import Kept
from emu3.server.studio.session import Seat
from emu3.server.studio.video_handlers import Script, Take, filming

pytest.importorskip("av")


def filmed(
    room: Room, script: Script, take: Take, kept: list[Kept], go_on: bool = False
) -> list[tuple[str, str]]:
    async def all_of_it() -> list[tuple[str, str]]:
        return [each async for each in filming(room, script, take, go_on, Seat(), kept)]

    return asyncio.run(all_of_it())


def test_frames_come_in_fours_and_the_clip_says_how_it_was_made(room: Room, tmp_path: Path) -> None:
    take, kept = Take(), list[Kept]()
    pages = filmed(room, Script("x", seconds=1.0, seed=3), take, kept)
    lines = [line for _, line in pages]
    assert any("4 frames" in line and "left" in line for line in lines)
    assert "8 frames, 8 a second" in lines[-1]
    assert "<video" in pages[-1][0]
    thing = room.shelf.get("/" + kept[0].url)
    assert thing is not None
    path = tmp_path / "clip.mp4"
    path.write_bytes(thing.data)
    out = Emu3(room.engine.checkpoint).video("x", seconds=1.0, seed=3)
    assert read_settings(path) == kept[0].settings == asdict(out.settings)
    assert take.coded is not None
    assert [list(map(list, group)) for group in take.coded.codes] == out.codes.tolist()


def test_what_goes_on_begins_with_what_was(room: Room) -> None:
    take, kept = Take(), list[Kept]()
    filmed(room, Script("x", seconds=1.0, seed=3), take, kept)
    first = take.coded
    assert first is not None
    pages = filmed(room, Script("x", seconds=0.5, seed=4), take, kept, go_on=True)
    assert "12 frames" in pages[-1][1]
    assert take.coded is not None
    assert take.coded.codes[: len(first.codes)] == first.codes
    assert [one.moves for one in kept] == [True, True]


def test_a_picture_begins_it(room: Room, photo: str) -> None:
    take, kept = Take(), list[Kept]()
    filmed(room, Script("x", seconds=1.0, first=photo, seed=0), take, kept)
    assert take.coded is not None
    assert kept[0].size == (20, 16)


@pytest.mark.parametrize(
    ("script", "go_on", "says"),
    [
        (Script(""), False, "prompt"),
        (Script("x", seconds=0), False, "seconds"),
        (Script("x", seconds=1e5), False, "max_frames"),
        (Script("x", guidance=99), False, "max_guidance"),
        (Script("x", first="data:image/png;base64,AAAA"), False, "not an image"),
        (Script("x"), True, "no clip yet"),
    ],
)
def test_the_servers_limits_hold_here_too(
    room: Room, script: Script, go_on: bool, says: str
) -> None:
    kept = list[Kept]()
    *_, (_, line) = filmed(room, script, Take(), kept, go_on)
    assert says in line
    assert kept == []
