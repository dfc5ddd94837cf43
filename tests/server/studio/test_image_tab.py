"""Drawing for a page: the picture of `Emu3.image`, growing, cancelled, within the limits."""

from __future__ import annotations

import asyncio
import io
import json
import re
from dataclasses import asdict
from typing import Any

import pytest
from PIL import Image

from emu3.api import Emu3
from emu3.server.errors import APIError
from emu3.server.studio.context import Room
from emu3.server.studio.history import MOST, Kept, file_name, keep
from emu3.server.studio.image_handlers import Wish, drawing, wish_of
from emu3.server.studio.session import Seat


def drawn(room: Room, wish: Wish, kept: list[Kept], seat: Seat | None = None) -> list[Any]:
    async def all_of_it() -> list[Any]:
        return [shown async for shown in drawing(room, wish, seat or Seat(), kept)]

    return asyncio.run(all_of_it())


def test_it_is_the_picture_of_emu3_image_with_its_settings_inside(room: Room) -> None:
    kept = list[Kept]()
    wish = Wish("x", "ugly", "2:1", 2.0, 1.5, 9, 7, 2)
    drawn(room, wish, kept)
    out = Emu3(room.engine.checkpoint).image(
        "x",
        ratio="2:1",
        seed=7,
        guidance_scale=2.0,
        temperature=1.5,
        top_k=9,
        negative_prompt="ugly",
        num_images=2,
    )
    assert len(kept) == 2
    for one in kept:
        thing = room.shelf.get("/" + one.url)
        assert thing is not None
        picture = Image.open(io.BytesIO(thing.data))
        said = json.loads(picture.text["emu3"])  # type: ignore[attr-defined]
        index = said["seed"] - 7
        assert said == one.settings == asdict(out.settings[index])
        assert picture.tobytes() == out.images[index].tobytes()


def test_it_grows_row_by_row(room: Room) -> None:
    pages = drawn(room, Wish("x", seed=1), list[Kept]())
    heights = [re.findall(r"height:([0-9.]+)%", page) for page, _ in pages]
    grown = [float(each[0]) for each in heights if each]
    assert grown == sorted(grown)
    assert len(set(grown)) > 1
    assert grown[-1] == 100
    lines = [line for _, line in pages]
    assert any("of 4 · about" in line for line in lines)
    assert "1 picture of 16×16" in lines[-1]
    assert "seed 1" in pages[-1][0]
    assert "download=" in pages[-1][0]


def test_a_seed_by_chance_is_shown_and_draws_the_same_again(room: Room) -> None:
    kept = list[Kept]()
    drawn(room, Wish("x"), kept)
    seed = kept[0].settings["seed"]
    assert isinstance(seed, int)
    drawn(room, Wish("x", seed=seed), kept)
    first, second = (room.shelf.get("/" + one.url) for one in kept)
    assert first is not None
    assert second is not None
    assert first.data == second.data


def test_whoever_cancels_frees_the_place(room: Room) -> None:
    seat, kept = Seat(), list[Kept]()

    async def cancelled() -> str:
        lines = [""]
        async for _, line in drawing(room, Wish("x", ratio="4:3", count=4), seat, kept):
            lines.append(line)
            seat.leave()
        return lines[-1]

    before = room.engine.stats()
    assert "cancelled" in asyncio.run(cancelled())
    after = room.engine.stats()
    while (after := room.engine.stats()).pictures or after.waiting:
        pass
    assert after.cancelled - before.cancelled + after.drawn - before.drawn == 4
    assert after.cancelled > before.cancelled


def test_whoever_asks_again_gives_up_what_was_asked_before(room: Room) -> None:
    seat, kept = Seat(), list[Kept]()

    async def both() -> tuple[str, str]:
        async def one(prompt: str) -> str:
            lines = [""]
            async for _, line in drawing(room, Wish(prompt, seed=0), seat, kept):
                lines.append(line)
            return lines[-1]

        first = asyncio.create_task(one("first"))
        await asyncio.sleep(0)
        return await one("second"), await first

    second, first = asyncio.run(both())
    assert "cancelled" in first
    assert "1 picture" in second
    assert [one.settings["prompt"] for one in kept] == ["second"]


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        (Wish(""), "prompt: say what to draw"),
        (Wish("x" * 5000), "limit max_prompt"),
        (Wish("x", "y" * 5000), "limit max_prompt"),
        (Wish("x", ratio="9:1"), "ratio"),
        (Wish("x", ratio="<b>"), "&lt;b&gt;"),
        (Wish("x", guidance=31), "limit max_guidance"),
        (Wish("x", guidance=float("nan")), "guidance_scale"),
        (Wish("x", temperature=0.001), "temperature"),
        (Wish("x", top_k=-1), "top_k"),
        (Wish("x", seed=2**70), "seed"),
        (Wish("x", count=5), "limit max_n"),
    ],
)
def test_the_servers_limits_hold_here_too(room: Room, wish: Wish, says: str) -> None:
    kept = list[Kept]()
    (page, line), *_ = drawn(room, wish, kept)
    assert page == ""
    assert says in line
    assert "problem" in line
    assert kept == []


def test_a_full_queue_is_said(room: Room) -> None:
    many = [drawing(room, Wish("x", count=4), Seat(), list[Kept]()) for _ in range(8)]

    async def crowd() -> list[str]:
        async def last(one: Any) -> str:
            lines = [""]
            async for _, line in one:
                lines.append(line)
            return lines[-1]

        return await asyncio.gather(*map(last, many))

    lines = asyncio.run(crowd())
    assert any("come back later" in line for line in lines)
    assert any("4 pictures" in line for line in lines)


def test_a_prompt_is_text_and_never_markup(room: Room) -> None:
    evil = '"><script>alert(1)</script>'
    kept = list[Kept]()
    pages = drawn(room, Wish(evil, seed=0), kept)
    assert not [page for page, _ in pages if "<script" in page]
    assert re.fullmatch(r"[a-z0-9.-]+", kept[0].name)


def test_fields_hold_numbers_or_say_so() -> None:
    said = ("x", "", "1:1", 3.0, 1.0, 2048.0, " 7 ", 2)
    assert wish_of(said) == Wish("x", "", "1:1", 3.0, 1.0, 2048, 7, 2)
    assert wish_of(("x", "", "1:1", 3.0, 1.0, None, "", 1)).seed is None
    for bad in ("seven", "-1", "1.5", "١", "9" * 40):
        with pytest.raises(APIError, match="whole number"):
            wish_of(("x", "", "1:1", 3.0, 1.0, 0, bad, 1))


def test_a_session_keeps_the_newest() -> None:
    kept = list[Kept]()
    for seed in range(MOST + 5):
        keep(kept, Kept("", (1, 1), {"seed": seed}, ""))
    assert [one.settings["seed"] for one in kept] == list(range(MOST + 4, 4, -1))


def test_file_names_are_plain() -> None:
    assert file_name("A red apple, noto style!", 3) == "a-red-apple-noto-style-3"
    assert file_name("../../etc/passwd", 0) == "etc-passwd-0"
    assert file_name("日本", 1) == "1"
