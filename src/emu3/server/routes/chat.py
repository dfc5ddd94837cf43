"""`/v1/chat/completions`: questions about images and videos, answered whole or streamed."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from emu3.inference.events import ChatResult, PartialText
from emu3.inference.requests import ChatRequest, ChatTurn, VideoInput
from emu3.inference.sampling import SamplingParams
from emu3.server.dependencies import (
    EngineDep,
    MetricsDep,
    SettingsDep,
    VideoDecoderDep,
    require_task,
    unsupported_task,
)
from emu3.server.errors import APIError, ClientDisconnected, invalid_request
from emu3.server.event_stream import SSE_DONE, EventStream, sse_error, sse_event, sse_response
from emu3.server.media import VideoDecoder, load_image
from emu3.server.openapi import EVENT_STREAM, WORK_ERRORS, request_body
from emu3.server.request_body import RequestBody
from emu3.server.routes.images import random_seed
from emu3.server.schemas import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatMessage,
    ChatUsage,
    FinishReason,
    ImageURL,
    VideoURL,
)
from emu3.server.settings import Settings

router = APIRouter(prefix="/v1/chat", tags=["chat"])

REPLACEMENT_CHARACTER = "\ufffd"  # stands for a character whose bytes are not all generated yet


@router.post(
    "/completions",
    response_model=ChatCompletion,
    responses=WORK_ERRORS | EVENT_STREAM,
    openapi_extra=request_body(ChatCompletionRequest),
    dependencies=[Depends(require_task("chat"))],
)
async def create_chat_completion(
    request: Request,
    body: Annotated[ChatCompletionRequest, Depends(RequestBody(ChatCompletionRequest))],
    engine: EngineDep,
    settings: SettingsDep,
    metrics: MetricsDep,
    video_decoder: VideoDecoderDep,
) -> Any:
    """Answer the last message of a conversation, as JSON or as server-sent events."""
    # In a thread, because it decodes images and may fetch them.
    chat = await run_in_threadpool(chat_request, body, settings, video_decoder)
    events = EventStream(engine, (chat,), settings, metrics)
    if body.stream:
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        return sse_response(_stream(request, events, settings.model, include_usage))
    async for _, event in events.events(request.receive):
        if isinstance(event, ChatResult):
            return _completion(event, settings.model)
    raise ClientDisconnected


def chat_request(
    body: ChatCompletionRequest, settings: Settings, video_decoder: VideoDecoder | None
) -> ChatRequest:
    """Return the engine request for an API request, its images and videos decoded.

    `video_decoder` is None if the model does not read videos. Raises APIError.
    """
    *turns, question = _Conversation(settings, video_decoder).turns(body.messages)
    return ChatRequest(
        question.text,
        question.images,
        max_new_tokens=body.max_tokens or body.max_completion_tokens or settings.max_tokens,
        sampling=_sampling_params(body),
        seed=random_seed() if body.seed is None else body.seed,
        history=tuple(turns),
        stream=body.stream,
        videos=question.videos,
    )


def _sampling_params(body: ChatCompletionRequest) -> SamplingParams:
    given = (body.temperature, body.top_p, body.top_k)
    if body.temperature == 0 or given == (None, None, None):
        return SamplingParams(top_k=1)
    return SamplingParams(
        0 if body.top_k is None else body.top_k,
        1.0 if body.top_p is None else body.top_p,
        1.0 if body.temperature is None else body.temperature,
    )


@dataclass
class _Conversation:
    """Converts messages to turns, and counts what is limited over all of them."""

    settings: Settings
    video_decoder: VideoDecoder | None
    characters: int = 0
    images: int = 0
    videos: int = 0

    def turns(self, messages: list[ChatMessage]) -> list[ChatTurn]:
        """Return question and answer of each turn; the last answer is empty. Raises APIError."""
        for index, message in enumerate(messages):
            expected = "user" if index % 2 == 0 else "assistant"
            if message.role != expected:
                raise invalid_request(
                    f"messages[{index}].role",
                    f"user and assistant take turns; expected {expected!r}",
                )
        if messages[-1].role != "user":
            raise invalid_request("messages", "the last message must be the user's")
        turns = list[ChatTurn]()
        for index, message in enumerate(messages):
            param = f"messages[{index}]"
            if message.role == "user":
                turns.append(self._question(message, param))
            else:
                answer = self._question(message, param).text
                turns[-1] = ChatTurn(turns[-1].text, answer, turns[-1].images, turns[-1].videos)
        return turns

    def _question(self, message: ChatMessage, param: str) -> ChatTurn:
        """Return a message as a turn without an answer; its texts are joined by newlines."""
        texts, images, videos = list[str](), list[Image.Image](), list[VideoInput]()
        for index, part in enumerate(message.content):
            where = f"{param}.content[{index}]"
            if part.text is not None:
                texts.append(self._text(part.text, f"{where}.text"))
            elif part.image_url is not None:
                images.append(self._image(part.image_url, f"{where}.image_url"))
            elif part.video_url is not None:
                videos.append(self._video(part.video_url, f"{where}.video_url"))
        return ChatTurn("\n".join(texts), "", tuple(images), tuple(videos))

    def _text(self, text: str, param: str) -> str:
        self.characters += len(text)
        limit = self.settings.max_prompt
        if self.characters > limit:
            raise invalid_request(
                param, f"more than {limit} characters in all messages (limit max_prompt)"
            )
        return text

    def _image(self, image: ImageURL, param: str) -> Image.Image:
        self.images += 1
        limit = self.settings.max_images
        if self.images > limit:
            raise invalid_request(param, f"at most {limit} images are allowed (limit max_images)")
        return load_image(image.url, f"{param}.url", self.settings)

    def _video(self, video: VideoURL, param: str) -> VideoInput:
        if self.video_decoder is None:
            raise unsupported_task(self.settings, "video")
        self.videos += 1
        limit = self.settings.max_videos
        if self.videos > limit:
            raise invalid_request(param, f"at most {limit} videos are allowed (limit max_videos)")
        fps = video.fps or self.settings.chat_fps
        return self.video_decoder.load(video.url, f"{param}.url", fps)


def _completion(result: ChatResult, model: str) -> ChatCompletion:
    return ChatCompletion(
        id=_completion_id(),
        created=int(time.time()),
        model=model,
        choices=[
            ChatChoice(
                message=AssistantMessage(content=result.text),
                finish_reason=_finish_reason(result),
            )
        ],
        usage=_usage(result),
    )


async def _stream(
    request: Request, events: EventStream, model: str, include_usage: bool
) -> AsyncIterator[str]:
    """Yield chunks, each with the text that is new."""
    completion_id, created, sent = _completion_id(), int(time.time()), ""

    def chunk(choices: list[ChatChunkChoice], usage: ChatUsage | None = None) -> str:
        message = ChatCompletionChunk(
            id=completion_id, created=created, model=model, choices=choices, usage=usage
        )
        return sse_event(message.model_dump_json(exclude=None if usage else {"usage"}))

    try:
        yield chunk([ChatChunkChoice(delta={"role": "assistant", "content": ""})])
        async for _, event in events.events(request.receive):
            if isinstance(event, PartialText):
                text = event.text.rstrip(REPLACEMENT_CHARACTER)
            elif isinstance(event, ChatResult):
                text = event.text
            else:
                continue
            if len(text) > len(sent):
                yield chunk([ChatChunkChoice(delta={"content": text[len(sent) :]})])
                sent = text
            if isinstance(event, ChatResult):
                yield chunk([ChatChunkChoice(delta={}, finish_reason=_finish_reason(event))])
                if include_usage:
                    yield chunk([], _usage(event))
        yield SSE_DONE
    except APIError as error:
        yield sse_error(error)
    except ClientDisconnected:
        return
    finally:
        events.cancel()


def _completion_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


def _finish_reason(result: ChatResult) -> FinishReason:
    return "stop" if result.complete else "length"


def _usage(result: ChatResult) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.new_tokens,
        total_tokens=result.prompt_tokens + result.new_tokens,
    )
