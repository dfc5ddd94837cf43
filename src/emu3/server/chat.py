"""`POST /v1/chat/completions`: a body to a request, and text to an answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from emu3.inference.requests import ChatRequest, ChatResult, PartialText
from emu3.inference.sampling import SamplingParams
from emu3.inference.validation import MAX_SEED
from emu3.server.events import DONE, event, failure
from emu3.server.fields import ANY, Fields
from emu3.server.follow import ClientGone, Following
from emu3.server.images import read_temperature
from emu3.server.messages import Reader
from emu3.server.problems import Problem, bad
from emu3.server.reels import Screen
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


def read_question(fields: Fields, settings: Settings, screen: Screen | None = None) -> Question:
    """A body to a question, its pictures and clips unpacked. Raises Problem.

    Without a screen, the model knows no clips.
    """
    older = fields.integer("max_tokens", 1, settings.max_tokens, "max_tokens")
    newer = fields.integer("max_completion_tokens", 1, settings.max_tokens, "max_tokens")
    if older is not None and newer is not None:
        raise bad("max_tokens", "give this or max_completion_tokens, not both")
    sampling = read_sampling(fields)
    seed = fields.integer("seed", 0, MAX_SEED)
    stream = fields.flag("stream")
    usage_in_stream = read_stream_options(fields, stream)
    fields.ignore(HARMLESS)
    messages = fields.take("messages")
    fields.done()
    before, asked = Reader(settings, screen).read(messages)
    request = ChatRequest(
        asked.text,
        asked.images,
        max_new_tokens=older or newer or settings.max_tokens,
        sampling=sampling,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        before=before,
        stream=stream,
        videos=asked.videos,
    )
    return Question(request, usage_in_stream)


def read_sampling(fields: Fields) -> SamplingParams:
    """Greedy, unless temperature, top_p or top_k ask for something else."""
    temperature, top_p = read_temperature(fields), fields.number("top_p", 0, 1)
    top_k = fields.integer("top_k", 0, 2**31 - 1)
    if top_p == 0:
        raise bad("top_p", "must be above 0; temperature 0 is greedy")
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
        raise bad("stream_options", "must be an object")
    if not stream:
        raise bad("stream_options", "only with stream: true")
    options = Fields(value, "stream_options.")
    wanted = options.flag("include_usage")
    options.ignore({"include_obfuscation": (True, False)})
    options.done()
    return wanted


def usage(end: ChatResult) -> dict[str, int]:
    """Ids read and written."""
    return {
        "prompt_tokens": end.prompt_ids,
        "completion_tokens": end.new_ids,
        "total_tokens": end.prompt_ids + end.new_ids,
    }


def finish(end: ChatResult) -> str:
    """Why it ended, in OpenAI's words."""
    return "stop" if end.whole else "length"


def head(kind: str, model: str) -> dict[str, Any]:
    """What every answer and every chunk begins with."""
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


async def answer(request: Any, following: Following, model: str) -> dict[str, Any]:
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
    raise ClientGone


async def stream(
    request: Any, following: Following, model: str, with_usage: bool
) -> AsyncIterator[str]:
    """The answer in chunks, each with what is new."""
    first, sent = head("chat.completion.chunk", model), ""

    def chunk(delta: dict[str, str], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**first, "choices": [choice]})

    try:
        yield chunk({"role": "assistant", "content": ""})
        async for _, told in following.events(request):
            if isinstance(told, PartialText):
                text = told.so_far.rstrip(UNFINISHED)
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
                    yield event({**first, "choices": [], "usage": usage(told)})
        yield DONE
    except Problem as problem:
        yield failure(problem)
    except ClientGone:
        return
    finally:
        following.cancel()
