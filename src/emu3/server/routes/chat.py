"""`POST /v1/chat/completions`: a body to a request, and text to an answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from emu3.inference.events import ChatResult, PartialText
from emu3.inference.requests import ChatRequest, ChatTurn, VideoInput
from emu3.inference.sampling import SamplingParams
from emu3.inference.validation import MAX_SEED
from emu3.processing.video import MAX_FPS
from emu3.server.errors import APIError, invalid_request
from emu3.server.event_stream import SSE_DONE, ClientDisconnected, EventStream, sse_error, sse_event
from emu3.server.fields import ANY, Fields, checked_text
from emu3.server.media import VideoDecoder, load_image
from emu3.server.routes.images import read_temperature
from emu3.server.settings import Settings

HARMLESS: dict[str, object] = {
    "user": ANY,
    "safety_identifier": ANY,
    "prompt_cache_key": ANY,
    "n": (1,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "logprobs": (False,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "stop": ([],),
}
"""Fields of OpenAI's that change nothing here, and the values they may have."""

UNFINISHED = "\ufffd"  # bytes of a character whose rest is still to come


@dataclass(frozen=True)
class Question:
    """What one call asks for."""

    request: ChatRequest
    usage_in_stream: bool


def read_question(
    fields: Fields, settings: Settings, decoder: VideoDecoder | None = None
) -> Question:
    """A body to a question, its pictures and clips unpacked. Raises APIError.

    Without a decoder, the model knows no clips.
    """
    older = fields.integer("max_tokens", 1, settings.max_tokens, "max_tokens")
    newer = fields.integer("max_completion_tokens", 1, settings.max_tokens, "max_tokens")
    if older is not None and newer is not None:
        raise invalid_request("max_tokens", "give this or max_completion_tokens, not both")
    sampling = read_sampling(fields)
    seed = fields.integer("seed", 0, MAX_SEED)
    stream = fields.flag("stream")
    usage_in_stream = read_stream_options(fields, stream)
    fields.ignore(HARMLESS)
    messages = fields.take("messages")
    fields.done()
    before, asked = MessageReader(settings, decoder).read(messages)
    request = ChatRequest(
        asked.text,
        asked.images,
        max_new_tokens=older or newer or settings.max_tokens,
        sampling=sampling,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        history=before,
        stream=stream,
        videos=asked.videos,
    )
    return Question(request, usage_in_stream)


def read_sampling(fields: Fields) -> SamplingParams:
    """Greedy, unless temperature, top_p or top_k ask for something else."""
    temperature, top_p = read_temperature(fields), fields.number("top_p", 0, 1)
    top_k = fields.integer("top_k", 0, 2**31 - 1)
    if top_p == 0:
        raise invalid_request("top_p", "must be above 0; temperature 0 is greedy")
    if temperature == 0 or (temperature is None and top_p is None and top_k is None):
        return SamplingParams(top_k=1)
    return SamplingParams(
        0 if top_k is None else top_k,
        1.0 if top_p is None else top_p,
        1.0 if temperature is None else temperature,
    )


def read_stream_options(fields: Fields, stream: bool) -> bool:
    """Whether the stream is to end with its usage."""
    value = fields.take("stream_options")
    if value is None:
        return False
    if not isinstance(value, dict):
        raise invalid_request("stream_options", "must be an object")
    if not stream:
        raise invalid_request("stream_options", "only with stream: true")
    options = Fields(value, "stream_options.")
    wanted = options.flag("include_usage")
    options.ignore({"include_obfuscation": (True, False)})
    options.done()
    return wanted


def usage(end: ChatResult) -> dict[str, int]:
    """Ids read and written."""
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.new_tokens,
        "total_tokens": end.prompt_tokens + end.new_tokens,
    }


def finish(end: ChatResult) -> str:
    """Why it ended, in OpenAI's words."""
    return "stop" if end.complete else "length"


def head(kind: str, model: str) -> dict[str, Any]:
    """What every answer and every chunk begins with."""
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


async def answer(request: Any, following: EventStream, model: str) -> dict[str, Any]:
    """The answer without a stream."""
    async for _, told in following.events(request):
        if isinstance(told, ChatResult):
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": told.text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish(told),
            }
            said = head("chat.completion", model)
            return {**said, "choices": [choice], "usage": usage(told)}
    raise ClientDisconnected


async def stream(
    request: Any, following: EventStream, model: str, with_usage: bool
) -> AsyncIterator[str]:
    """The answer in chunks, each with what is new."""
    first, sent = head("chat.completion.chunk", model), ""

    def chunk(delta: dict[str, str], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return sse_event({**first, "choices": [choice]})

    try:
        yield chunk({"role": "assistant", "content": ""})
        async for _, told in following.events(request):
            if isinstance(told, PartialText):
                text = told.text.rstrip(UNFINISHED)
            elif isinstance(told, ChatResult):
                text = told.text
            else:
                continue
            if len(text) > len(sent):
                yield chunk({"content": text[len(sent) :]})
                sent = text
            if isinstance(told, ChatResult):
                yield chunk({}, finish(told))
                if with_usage:
                    yield sse_event({**first, "choices": [], "usage": usage(told)})
        yield SSE_DONE
    except APIError as problem:
        yield sse_error(problem)
    except ClientDisconnected:
        return
    finally:
        following.cancel()


MAX_MESSAGES = 200  # messages


@dataclass(frozen=True)
class UserMessage:
    """One message of the user's: its texts line by line; its pictures, and then its clips, come
    before them.
    """

    text: str
    images: tuple[Image.Image, ...] = ()
    videos: tuple[VideoInput, ...] = ()


@dataclass
class MessageReader:
    """Reads messages, and keeps count of what is limited over all of them."""

    settings: Settings
    video_decoder: VideoDecoder | None  # None where the model knows no clips
    characters: int = 0
    pictures: int = 0
    videos: int = 0

    def read(self, value: Any) -> tuple[tuple[ChatTurn, ...], UserMessage]:
        """Earlier exchanges and the question. Raises APIError, pictures fetched or unpacked."""
        if not isinstance(value, list) or not value:
            raise invalid_request("messages", "must be a list of at least one message")
        if len(value) > MAX_MESSAGES:
            raise invalid_request(
                "messages", f"{len(value)} messages, at most {MAX_MESSAGES} are allowed"
            )
        said = [self.message(each, f"messages[{index}]") for index, each in enumerate(value)]
        for index, each in enumerate(said):
            if isinstance(each, UserMessage) != (index % 2 == 0):
                turn = "user" if index % 2 == 0 else "assistant"
                raise invalid_request(
                    f"messages[{index}].role", f"user and assistant take turns; now {turn}"
                )
        last = said[-1]
        if not isinstance(last, UserMessage):
            raise invalid_request("messages", "the last message must be the user's")
        before = tuple(
            ChatTurn(asked.text, answer, asked.images, asked.videos)
            for asked, answer in zip(said[::2], said[1::2], strict=False)
            if isinstance(asked, UserMessage) and isinstance(answer, str)
        )
        return before, last

    def message(self, value: Any, where: str) -> UserMessage | str:
        """The user's message, or the assistant's as its text."""
        if not isinstance(value, dict):
            raise invalid_request(where, "must be an object with role and content")
        fields = Fields(value, f"{where}.")
        role, content = fields.take("role"), fields.take("content")
        fields.ignore({"refusal": (), "audio": (), "function_call": (), "tool_calls": ([],)})
        fields.ignore({"annotations": ([],)})
        fields.done()
        if role in ("system", "developer"):
            raise invalid_request(
                f"{where}.role",
                "the model's template has a system sentence of its own; "
                "put instructions into the user's message",
            )
        if role == "assistant":
            asked = self.content(content, f"{where}.content", pictures=False)
            return asked.text
        if role != "user":
            raise invalid_request(f"{where}.role", "must be user or assistant")
        return self.content(content, f"{where}.content", pictures=True)

    def content(self, value: Any, where: str, pictures: bool) -> UserMessage:
        """A string, or a list of parts."""
        if isinstance(value, str):
            return UserMessage(self.text(value, where))
        if not isinstance(value, list) or not value:
            raise invalid_request(where, "must be a string or a list of parts")
        texts, images, videos = list[str](), list[Image.Image](), list[VideoInput]()
        for index, each in enumerate(value):
            place = f"{where}[{index}]"
            if not isinstance(each, dict):
                raise invalid_request(place, "must be an object with a type")
            fields = Fields(each, f"{place}.")
            kind = fields.take("type")
            if kind == "text":
                text = fields.take("text")
                texts.append(self.text(text, f"{place}.text"))
            elif kind == "image_url" and pictures:
                images.append(self.picture(fields.take("image_url"), f"{place}.image_url"))
            elif kind == "video_url" and pictures:
                videos.append(self.video(fields.take("video_url"), f"{place}.video_url"))
            else:
                raise invalid_request(f"{place}.type", f"must be {self.kinds(pictures)}")
            fields.done()
        return UserMessage("\n".join(texts), tuple(images), tuple(videos))

    def kinds(self, pictures: bool) -> str:
        """What parts there are."""
        if not pictures:
            return "text"
        return "text or image_url" if self.video_decoder is None else "text, image_url or video_url"

    def text(self, value: Any, where: str) -> str:
        """A text within what is left of the limit."""
        if not isinstance(value, str):
            raise invalid_request(where, "must be a string")
        self.characters += len(value)
        if self.characters > self.settings.max_prompt:
            raise invalid_request(
                where,
                f"more than {self.settings.max_prompt} characters in all (limit max_prompt)",
            )
        return checked_text(value, where, self.settings.max_prompt, "max_prompt")

    def picture(self, value: Any, where: str) -> Image.Image:
        """A picture in a data URL, or fetched where the operator allows it."""
        self.pictures += 1
        if self.pictures > self.settings.max_images:
            most = self.settings.max_images
            raise invalid_request(where, f"at most {most} pictures are allowed (limit max_images)")
        if not isinstance(value, dict):
            raise invalid_request(where, "must be an object with a url")
        fields = Fields(value, f"{where}.")
        url = self.url(fields)
        fields.ignore({"detail": ("auto", "low", "high")})
        fields.done()
        return load_image(url, f"{where}.url", self.settings)

    def video(self, value: Any, where: str) -> VideoInput:
        """A clip in a data URL, or fetched as a picture is; `fps` is ours."""
        if self.video_decoder is None:
            raise invalid_request(
                where, f"{self.settings.model} was not made for this task (video)"
            )
        self.videos += 1
        if self.videos > self.settings.max_videos:
            most = self.settings.max_videos
            raise invalid_request(where, f"at most {most} videos are allowed (limit max_videos)")
        if not isinstance(value, dict):
            raise invalid_request(where, "must be an object with a url")
        fields = Fields(value, f"{where}.")
        url = self.url(fields)
        fps = fields.number("fps", 0.001, MAX_FPS) or self.settings.chat_fps
        fields.done()
        return self.video_decoder.load(url, f"{where}.url", fps)

    def url(self, fields: Fields) -> str:
        """What is to be looked at."""
        url = fields.take("url")
        if not isinstance(url, str):
            raise fields.bad("url", "must be a string")
        return url
