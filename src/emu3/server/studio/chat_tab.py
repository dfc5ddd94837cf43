"""The Chat tab: questions about an uploaded image or video, with follow-up questions."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from emu3.inference.events import ChatResult, PartialText
from emu3.server.errors import invalid_request
from emu3.server.event_stream import EventStream
from emu3.server.request_body import validate
from emu3.server.routes.chat import REPLACEMENT_CHARACTER, chat_request
from emu3.server.schemas import ChatCompletionRequest
from emu3.server.studio.context import StudioContext
from emu3.server.studio.form_parts import (
    EVENT_OPTIONS,
    REQUEST_ERRORS,
    error_status,
    stream_updates,
)
from emu3.server.studio.html import chat_message, image_tag, placeholder, status_line, video_tag
from emu3.server.studio.session import TabSession
from emu3.server.studio.upload import upload_field

PLACEHOLDER = "Upload an image and ask about it. Follow-up questions include the conversation."
ATTACHMENT_TYPES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}
"""Media types of uploads and their suffixes. None of them can run scripts in the page's origin."""


@dataclass
class Turn:
    """A question with its attachment, and the answer as far as it is generated."""

    question: str
    attachment: str = ""  # a data URL, or empty
    attachment_url: str = ""  # in the media cache
    answer: str = ""
    is_truncated: bool = False

    def messages(self) -> list[dict[str, Any]]:
        """Return the question and the answer as messages of the chat API."""
        content: list[dict[str, Any]] = [{"type": "text", "text": self.question}]
        if self.attachment:
            kind = "video_url" if is_video(self.attachment) else "image_url"
            content.insert(0, {"type": kind, kind: {"url": self.attachment}})
        user = {"role": "user", "content": content}
        return [user, {"role": "assistant", "content": self.answer}]


@dataclass
class Conversation:
    """The turns of a conversation; the last one may still be without an answer."""

    turns: list[Turn] = field(default_factory=list)

    def html(self, *, is_waiting: bool = False) -> str:
        """Return all messages, and a mark for the answer that `is_waiting` announces."""
        messages = list[str]()
        for turn in self.turns:
            messages.append(chat_message("user", turn.question, _attachment_tag(turn)))
            if turn.answer:
                text = turn.answer + (" …" if turn.is_truncated else "")
                messages.append(chat_message("assistant", text))
        if is_waiting and self.turns and not self.turns[-1].answer:
            messages.append(chat_message("assistant waiting", "…"))
        if not messages:
            return placeholder(PLACEHOLDER)
        return f'<div class="conversation">{"".join(messages)}</div>'


def _attachment_tag(turn: Turn) -> str:
    if not turn.attachment_url:
        return ""
    if is_video(turn.attachment):
        return video_tag(turn.attachment_url, "the uploaded video")
    return image_tag(turn.attachment_url, "the uploaded image")


def is_video(data_url: str) -> bool:
    """Whether a data URL holds a video; GIFs count as images."""
    return data_url[:11].lower() == "data:video/"


def build(context: StudioContext) -> None:
    """Add the tab's components."""
    import gradio as gr

    session, conversation = gr.State(TabSession()), gr.State(Conversation())
    allow_videos = context.supports("video")
    label = "Upload an image or a video" if allow_videos else "Upload an image"
    with gr.Row(elem_classes="two-columns"):
        with gr.Column(min_width=300, elem_classes="fields"):
            upload = upload_field(
                label, context.settings.max_body, "chat-upload", allow_videos=allow_videos
            )
            question = gr.Textbox(
                "What is this?",
                label="Question",
                lines=1,
                max_lines=4,
                max_length=context.settings.max_prompt,
                elem_id="chat-question",
            )
            with gr.Row(elem_classes="buttons"):
                send = gr.Button("Send", variant="primary", elem_id="chat-send")
                cancel = gr.Button("Cancel", interactive=False, elem_id="chat-cancel")
                clear = gr.Button("Clear", elem_id="chat-clear")
        with gr.Column(min_width=300):
            output = gr.HTML(placeholder(PLACEHOLDER), elem_id="chat-conversation", autoscroll=True)
            status = gr.HTML(elem_id="chat-status")

    async def run(
        attachment: str | None, text: str | None, tab_session: TabSession, current: Conversation
    ) -> AsyncIterator[tuple[Any, ...]]:
        turns_before = len(current.turns)

        def uploaded(is_last: bool) -> tuple[Any, ...]:
            # An answered attachment is part of the conversation and need not be sent again.
            return ("" if is_last and len(current.turns) > turns_before else gr.skip(),)

        updates = ask(context, current, text or "", attachment or "", tab_session)
        async for outputs in stream_updates(updates, uploaded):
            yield outputs

    def reset(tab_session: TabSession) -> tuple[Any, ...]:
        tab_session.cancel()
        return Conversation(), Conversation().html(), "", ""

    inputs = [upload, question, session, conversation]
    outputs = [output, status, cancel, upload]
    send.click(run, inputs, outputs, api_name="chat", **EVENT_OPTIONS)
    question.submit(run, inputs, outputs, api_name=False, **EVENT_OPTIONS)
    cancel.click(TabSession.cancel, session, None, api_name="cancel_chat", **EVENT_OPTIONS)
    clear.click(
        reset,
        session,
        [conversation, output, status, upload],
        api_name="clear_chat",
        **EVENT_OPTIONS,
    )


async def ask(
    context: StudioContext,
    conversation: Conversation,
    question: str,
    attachment: str,
    session: TabSession,
) -> AsyncIterator[tuple[str, str]]:
    """Yield the HTML of the conversation and a status line as the answer is generated.

    `attachment` is a data URL or empty. A turn that ends without an answer is removed, because the
    prompt template has no place for unanswered questions.
    """
    connection, turn = session.start_request(), None
    settings = context.settings
    try:
        if not question.strip():
            raise invalid_request(None, "enter a question")
        turn = Turn(question, attachment, cache_attachment(context, attachment))
        turns = [*conversation.turns, turn]
        if sum(len(each.attachment) for each in turns) > settings.max_body:
            raise invalid_request(
                None,
                f"the attachments of the conversation exceed {settings.max_body} bytes "
                "(limit max_body); clear the conversation",
            )
        messages = [message for each in turns for message in each.messages()][:-1]
        values = {"messages": messages, "stream": True}
        body = validate(ChatCompletionRequest, values, settings)
        request = await asyncio.to_thread(chat_request, body, settings, context.video_decoder)
        stream = EventStream(context.engine, (request,), settings, context.metrics)
        conversation.turns.append(turn)
        yield conversation.html(is_waiting=True), ""
        async for _, event in stream.events(connection.receive):
            if isinstance(event, PartialText):
                turn.answer = event.text.rstrip(REPLACEMENT_CHARACTER)
            elif isinstance(event, ChatResult):
                turn.answer, turn.is_truncated = event.text, not event.complete
            yield conversation.html(is_waiting=True), ""
        yield conversation.html(), "" if turn.answer else status_line("the answer is empty")
    except REQUEST_ERRORS as error:
        yield conversation.html(), error_status(error)
    finally:
        if turn in conversation.turns and not turn.answer:
            conversation.turns.remove(turn)


def cache_attachment(context: StudioContext, data_url: str) -> str:
    """Put an attachment into the media cache and return its URL; "" for none. Raises APIError."""
    if not data_url:
        return ""
    head, _, data = data_url.partition(",")
    media_type = head.removeprefix("data:").removesuffix(";base64")
    suffix = ATTACHMENT_TYPES.get(media_type)
    if suffix is None:
        types = ", ".join(ATTACHMENT_TYPES.values())
        raise invalid_request(None, f"unsupported file type; upload one of {types}")
    try:
        return context.media_cache.put(base64.b64decode(data, validate=True), media_type, suffix)
    except ValueError:
        raise invalid_request(None, "the attachment is not valid base64") from None
