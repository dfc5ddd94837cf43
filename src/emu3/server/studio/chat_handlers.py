"""A conversation about pictures: what was said, and answers as they come."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from emu3.inference.requests import ChatResult, PartialText
from emu3.server.errors import APIError, invalid_request
from emu3.server.event_stream import ClientDisconnected, EventStream
from emu3.server.fields import Fields
from emu3.server.routes.chat import UNFINISHED, read_question
from emu3.server.studio.context import Room
from emu3.server.studio.html import bubble, note
from emu3.server.studio.session import Seat


@dataclass
class Turn:
    """A question with what was dropped for it, and its answer, so far."""

    question: str
    source: str  # a data URL, or empty
    url: str  # where the page finds it
    answer: str = ""
    cut: bool = False

    def messages(self) -> list[dict[str, Any]]:
        """As the API has it."""
        content: list[dict[str, Any]] = [{"type": "text", "text": self.question}]
        if self.source:
            kind = kind_of(self.source)
            content.insert(0, {"type": kind, kind: {"url": self.source}})
        asked = {"role": "user", "content": content}
        return [asked, {"role": "assistant", "content": self.answer}]


@dataclass
class Talk:
    """All turns, the last perhaps not answered yet."""

    turns: list[Turn] = field(default_factory=list)

    def html(self, waiting: bool = False) -> str:
        """Everything said."""
        said = []
        for turn in self.turns:
            moves = kind_of(turn.source) == "video_url"
            said.append(bubble("asked", turn.question, turn.url, moves))
            if turn.answer:
                said.append(bubble("said", turn.answer + (" …" if turn.cut else "")))
        if waiting and self.turns and not self.turns[-1].answer:
            said.append(bubble("said waiting", "…"))
        return f'<div class="talk">{"".join(said)}</div>' if said else ""


def kind_of(source: str) -> str:
    """What the API calls a part of a message that has this data URL."""
    return "video_url" if source[:11].lower() == "data:video/" else "image_url"


async def asking(
    room: Room, talk: Talk, question: str, source: str, seat: Seat
) -> AsyncIterator[tuple[str, str]]:
    """The conversation and a line about it, again and again until there is an answer.

    A turn that came to nothing is forgotten, so that the next one can be asked.
    """
    visitor, turn = seat.sit(), None
    try:
        if not question.strip():
            raise invalid_request(None, "ask something")
        turn = Turn(question, source, shelved(room, source))
        whole = sum(len(each.source) for each in (*talk.turns, turn))
        if whole > room.settings.max_body:
            most = room.settings.max_body
            raise invalid_request(
                None, f"more than {most} bytes of pictures; start anew (limit max_body)"
            )
        messages = [part for each in (*talk.turns, turn) for part in each.messages()][:-1]
        values = {"messages": messages, "stream": True}
        asked = await asyncio.to_thread(
            read_question, Fields(values), room.settings, room.video_decoder
        )
        following = EventStream(room.engine, (asked.request,), room.settings)
        talk.turns.append(turn)
        yield talk.html(waiting=True), ""
        async for _, told in following.events(visitor):
            if isinstance(told, PartialText):
                turn.answer = told.so_far.rstrip(UNFINISHED)
            elif isinstance(told, ChatResult):
                turn.answer, turn.cut = told.text, not told.whole
            yield talk.html(waiting=True), ""
        yield talk.html(), "" if turn.answer else note("the model had nothing to say")
    except ClientDisconnected:
        yield talk.html(), note("cancelled")
    except APIError as problem:
        yield talk.html(), note(problem.message, "problem")
    finally:
        if turn in talk.turns and not turn.answer:
            talk.turns.remove(turn)


def shelved(room: Room, source: str) -> str:
    """Where the page finds what was dropped. Raises APIError on what is no picture and no clip."""
    if not source:
        return ""
    head, _, data = source.partition(",")
    kind = head.removeprefix("data:").removesuffix(";base64")
    if kind not in SHOWN:
        raise invalid_request(None, f"drop one of {', '.join(SHOWN.values())}")
    try:
        return room.shelf.put(base64.b64decode(data, validate=True), kind, SHOWN[kind])
    except ValueError:
        raise invalid_request(None, "not valid base64") from None


SHOWN = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}
"""What may be dropped: nothing that could run as a page of ours."""
