"""A conversation on a page: the answers of the engine, turn by turn, within the limits."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from emu3.inference.requests import ChatRequest, ChatResult
from emu3.server.media import decode_image_data_url
from emu3.server.studio.chat_handlers import Talk, asking
from emu3.server.studio.context import Room
from emu3.server.studio.session import Seat


def asked(
    room: Room, talk: Talk, question: str, source: str = "", seat: Seat | None = None
) -> list[tuple[str, str]]:
    async def all_of_it() -> list[tuple[str, str]]:
        return [each async for each in asking(room, talk, question, source, seat or Seat())]

    return asyncio.run(all_of_it())


def test_answers_stream_and_are_the_engines_own(room: Room, photo: str) -> None:
    talk = Talk()
    pages = asked(room, talk, "what?", photo)
    picture = decode_image_data_url(photo, "", room.settings)
    request = ChatRequest("what?", (picture,), max_new_tokens=room.settings.max_tokens)
    end = room.engine.submit(request).result()
    assert isinstance(end, ChatResult)
    assert [turn.answer for turn in talk.turns] == [end.text] * bool(end.text)
    assert len(pages) > 3
    assert talk.turns[0].url in pages[-1][0]


def test_a_second_question_is_read_with_the_first(room: Room, photo: str) -> None:
    talk = Talk()
    asked(room, talk, "what?", photo)
    asked(room, talk, "and now?")
    assert [turn.question for turn in talk.turns] == ["what?", "and now?"]
    alone = Talk()
    asked(room, alone, "and now?")
    assert talk.turns[1].answer != alone.turns[0].answer


def test_what_comes_to_nothing_is_forgotten(room: Room, photo: str) -> None:
    seat, talk = Seat(), Talk()

    async def cancelled() -> str:
        lines = [""]
        async for _, line in asking(room, talk, "what?", photo, seat):
            lines.append(line)
            seat.leave()
        return lines[-1]

    assert "cancelled" in asyncio.run(cancelled())
    assert all(turn.answer for turn in talk.turns)
    asked(room, talk, "again?")
    assert talk.turns[-1].question == "again?"


def test_words_are_never_markup(room: Room) -> None:
    talk = Talk()
    pages = asked(room, talk, "<img src=x onerror=alert(1)>")
    assert not [page for page, _ in pages if "<img" in page]


def test_the_servers_limits_hold_here_too(room: Room, photo: str) -> None:
    for question, source, says in (
        (" ", photo, "ask something"),
        ("x" * 5000, "", "limit max_prompt"),
        ("x", "data:text/html;base64,PGI+", "drop one of"),
        ("x", "data:image/svg+xml;base64,PHN2Zz4=", "drop one of"),
        ("x", "data:image/png;base64,!", "not valid base64"),
        ("x", "data:image/png;base64,aGVsbG8=", "not an image"),
        ("x", "http://example.com/x.png", "drop one of"),
        ("x", "data:video/mp4;base64,aGVsbG8=", "video"),
    ):
        talk = Talk()
        (_, line), *_ = asked(room, talk, question, source)
        assert says in line
        assert talk.turns == []


def test_pictures_of_all_turns_count_together(room: Room, photo: str) -> None:
    few = replace(room, settings=replace(room.settings, max_body=len(photo) + 10))
    talk = Talk()
    asked(few, talk, "x", photo)
    assert "max_body" in asked(few, talk, "x", photo)[0][1]
    most = replace(room, settings=replace(room.settings, max_images=1))
    talk = Talk()
    asked(most, talk, "x", photo)
    assert "max_images" in asked(most, talk, "x", photo)[0][1]


@pytest.mark.parametrize("task", ["chat", "video"])
def test_the_card_decides_about_clips(room: Room, task: str) -> None:
    assert (room.video_decoder is None) == (not room.can("video"))
