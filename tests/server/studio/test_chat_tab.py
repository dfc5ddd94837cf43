"""The Chat tab: streamed answers of the engine, follow-up questions, and the limits."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from emu3.inference.events import ChatResult
from emu3.inference.requests import ChatRequest
from emu3.server.media import decode_image_data_url
from emu3.server.studio.chat_tab import Conversation, ask
from emu3.server.studio.context import StudioContext
from emu3.server.studio.session import TabSession


def send(
    context: StudioContext, conversation: Conversation, question: str, attachment: str = ""
) -> list[tuple[str, str]]:
    """Return all updates (HTML, status line)."""

    async def collect() -> list[tuple[str, str]]:
        updates = ask(context, conversation, question, attachment, TabSession())
        return [update async for update in updates]

    return asyncio.run(collect())


def test_answer_is_streamed_and_equals_the_engines(context: StudioContext, photo: str) -> None:
    conversation = Conversation()
    updates = send(context, conversation, "what?", photo)
    image = decode_image_data_url(photo, "", context.settings)
    request = ChatRequest("what?", (image,), max_new_tokens=context.settings.max_tokens)
    result = context.engine.submit(request).result()
    assert isinstance(result, ChatResult)
    assert [turn.answer for turn in conversation.turns] == [result.text] * bool(result.text)
    assert len(updates) > 3
    assert conversation.turns[0].attachment_url in updates[-1][0]


def test_follow_up_question_depends_on_the_conversation(context: StudioContext, photo: str) -> None:
    conversation = Conversation()
    send(context, conversation, "what?", photo)
    send(context, conversation, "and now?")
    assert [turn.question for turn in conversation.turns] == ["what?", "and now?"]
    alone = Conversation()
    send(context, alone, "and now?")
    assert conversation.turns[1].answer != alone.turns[0].answer


def test_unanswered_turn_is_removed(context: StudioContext, photo: str) -> None:
    session, conversation = TabSession(), Conversation()

    async def cancel_at_once() -> str:
        statuses = list[str]()
        async for _, status in ask(context, conversation, "what?", photo, session):
            statuses.append(status)
            session.cancel()
        return statuses[-1]

    assert "cancelled" in asyncio.run(cancel_at_once())
    assert all(turn.answer for turn in conversation.turns)
    send(context, conversation, "again?")
    assert conversation.turns[-1].question == "again?"


def test_question_is_escaped(context: StudioContext) -> None:
    updates = send(context, Conversation(), "<img src=x onerror=alert(1)>")
    assert not [html for html, _ in updates if "<img" in html]


@pytest.mark.parametrize(
    ("question", "attachment", "message"),
    [
        (" ", "", "enter a question"),
        ("x" * 5000, "", "limit max_prompt"),
        ("x", "data:text/html;base64,PGI+", "unsupported file type"),
        ("x", "data:image/svg+xml;base64,PHN2Zz4=", "unsupported file type"),
        ("x", "data:image/png;base64,!", "not valid base64"),
        ("x", "data:image/png;base64,aGVsbG8=", "not an image"),
        ("x", "http://example.com/x.png", "unsupported file type"),
        ("x", "data:video/mp4;base64,aGVsbG8=", "video"),
    ],
)
def test_invalid_questions_are_refused(
    context: StudioContext, question: str, attachment: str, message: str
) -> None:
    conversation = Conversation()
    (_, status), *_ = send(context, conversation, question, attachment)
    assert message in status
    assert conversation.turns == []


def test_attachments_of_all_turns_are_limited_together(context: StudioContext, photo: str) -> None:
    settings = replace(context.settings, max_body=len(photo) + 10)
    limited, conversation = replace(context, settings=settings), Conversation()
    send(limited, conversation, "x", photo)
    assert "max_body" in send(limited, conversation, "x", photo)[0][1]
    settings = replace(context.settings, max_images=1)
    limited, conversation = replace(context, settings=settings), Conversation()
    send(limited, conversation, "x", photo)
    assert "max_images" in send(limited, conversation, "x", photo)[0][1]


def test_video_decoder_exists_if_the_checkpoint_supports_video(context: StudioContext) -> None:
    assert context.video_decoder is not None
    checkpoint = context.engine.checkpoint
    defaults = replace(checkpoint.defaults, tasks=("chat",))

    class Engine:
        def __init__(self) -> None:
            self.checkpoint = replace(checkpoint, defaults=defaults)

    without = StudioContext(Engine(), context.settings, context.metrics)  # type: ignore[arg-type]
    assert without.video_decoder is None
