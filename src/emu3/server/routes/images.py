"""`POST /v1/images/generations`: a body to requests, and pictures to an answer."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from emu3.inference.async_engine import AsyncEngine
from emu3.inference.events import ImageResult, PartialImage
from emu3.inference.requests import ImageRequest
from emu3.inference.sampling import SamplingParams
from emu3.inference.validation import MAX_SEED
from emu3.server.errors import APIError, invalid_request
from emu3.server.event_stream import ClientDisconnected, EventStream, sse_error, sse_event
from emu3.server.fields import ANY, Fields
from emu3.server.media import OUTPUT_FORMATS, encode_image_base64
from emu3.server.settings import Settings

HARMLESS: dict[str, object] = {
    "user": ANY,
    "quality": ("auto", "standard"),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "style": ("vivid", "natural"),
}
"""Fields of OpenAI's that change nothing here, and the values they may have."""

SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")
SEEDS = 2**31
QUALITY = 95  # of jpeg and webp, as in `emu3 image`
EDITS = "this model draws pictures from words alone; it was not trained to edit one"


@dataclass(frozen=True)
class Order:
    """What one call asks for."""

    requests: tuple[ImageRequest, ...]
    kind: str
    quality: int
    stream: bool


def read_order(fields: Fields, engine: AsyncEngine, settings: Settings) -> Order:
    """A body to an order. Raises APIError on whatever is wrong with it."""
    prompt = fields.text("prompt", settings.max_prompt, "max_prompt")
    if not prompt or not prompt.strip():
        raise invalid_request("prompt", "say what to draw")
    negative = fields.text("negative_prompt", settings.max_prompt, "max_prompt")
    count = fields.integer("n", 1, settings.max_n, "max_n") or 1
    size = read_size(fields, settings)
    seed = fields.integer("seed", 0, MAX_SEED - settings.max_n)
    seed = secrets.randbelow(SEEDS) if seed is None else seed
    guidance = fields.number("guidance_scale", 0, settings.max_guidance, "max_guidance")
    sampling = read_sampling(fields, engine)
    refuse_url(fields)
    kind = fields.choice("output_format", tuple(OUTPUT_FORMATS), "png")
    quality = fields.integer("output_compression", 0, 100)
    stream = fields.flag("stream")
    partials = fields.integer("partial_images", 0, 3) or 0
    fields.ignore(HARMLESS)
    fields.done()
    if partials and not stream:
        raise invalid_request("partial_images", "only with stream: true")
    if stream and count > 1:
        raise invalid_request("n", "a stream brings one picture; leave n out or ask without stream")
    requests = tuple(
        ImageRequest(
            prompt,
            size=size,
            seed=seed + number,
            sampling=sampling,
            guidance_scale=guidance,
            negative_prompt=negative,
            partials=partials,
        )
        for number in range(count)
    )
    return Order(requests, kind, QUALITY if quality is None else quality, stream)


def read_size(fields: Fields, settings: Settings) -> tuple[int, int] | None:
    """Width and height in pixels; None for `auto`, which is the model's own."""
    value = fields.text("size", 20)
    if value in (None, "auto"):
        return None
    match = SIZE.fullmatch(value or "")
    if match is None:
        raise invalid_request("size", "expected WIDTHxHEIGHT in pixels, such as 512x512, or auto")
    width, height = int(match[1]), int(match[2])
    if width * height > settings.max_pixels:
        raise invalid_request(
            "size",
            f"{width * height} pixels, at most {settings.max_pixels} are drawn (limit max_pixels)",
        )
    return width, height


def read_sampling(fields: Fields, engine: AsyncEngine) -> SamplingParams:
    """Top-k and temperature, the card's where there are none; temperature 0 is greedy."""
    top_k = fields.integer("top_k", 0, 2**31 - 1)
    temperature = read_temperature(fields)
    if temperature == 0:
        return SamplingParams(top_k=1)
    manner = engine.checkpoint.defaults.resolve(top_k=top_k, temperature=temperature)
    return SamplingParams(manner.top_k, manner.top_p, manner.temperature)


def read_temperature(fields: Fields) -> float | None:
    """0, or a number that logits can be divided by."""
    temperature = fields.number("temperature", 0, 10)
    if temperature is not None and 0 < temperature < 0.01:
        raise invalid_request("temperature", "must be 0 (greedy), or lie in 0.01 to 10")
    return temperature


def refuse_url(fields: Fields) -> None:
    """Pictures are answered in base64 only."""
    if fields.choice("response_format", ("b64_json", "url"), "b64_json") == "url":
        raise invalid_request(
            "response_format",
            "url is not supported: this server keeps no pictures; use b64_json",
        )


def usage(ends: list[ImageResult]) -> dict[str, Any]:
    """Ids read and codes drawn."""
    read = sum(end.prompt_tokens for end in ends)
    drawn = sum(end.codes.numel() for end in ends)
    return {
        "input_tokens": read,
        "input_tokens_details": {"text_tokens": read, "image_tokens": 0},
        "output_tokens": drawn,
        "total_tokens": read + drawn,
    }


def described(picture: Any, order: Order) -> dict[str, Any]:
    """What both kinds of answer say of a picture."""
    return {
        "background": "opaque",
        "output_format": order.kind,
        "size": f"{picture.width}x{picture.height}",
        "quality": "auto",
    }


async def draw(
    request: Any, following: EventStream, order: Order, in_thread: Any
) -> dict[str, Any]:
    """The answer without a stream."""
    ends: dict[int, ImageResult] = {}
    async for index, told in following.events(request):
        if isinstance(told, ImageResult):
            ends[index] = told
    drawn = [ends[index] for index in range(len(order.requests))]
    data = [
        {
            "b64_json": await in_thread(encode_image_base64, end.image, order.kind, order.quality),
            "seed": each.seed,
        }
        for end, each in zip(drawn, order.requests, strict=True)
    ]
    said = described(drawn[0].image, order)
    return {"created": int(time.time()), "data": data, "usage": usage(drawn), **said}


async def stream(
    request: Any, following: EventStream, order: Order, in_thread: Any
) -> AsyncIterator[str]:
    """The answer as events: partial pictures, and the whole one."""
    try:
        async for _, told in following.events(request):
            if not isinstance(told, PartialImage | ImageResult):
                continue
            encoded = await in_thread(encode_image_base64, told.image, order.kind, order.quality)
            said = {"b64_json": encoded, "created_at": int(time.time())}
            said |= described(told.image, order)
            if isinstance(told, PartialImage):
                name = "image_generation.partial_image"
                said["partial_image_index"] = told.index
            else:
                name = "image_generation.completed"
                said |= {"usage": usage([told]), "seed": order.requests[0].seed}
            yield sse_event({"type": name, **said}, name)
    except APIError as problem:
        yield sse_error(problem)
    except ClientDisconnected:
        return
    finally:
        following.cancel()
