"""`/v1/images`: images from texts, whole or streamed."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.inference.events import ImageResult, PartialImage
from emu3.inference.requests import ImageRequest
from emu3.inference.sampling import SamplingParams
from emu3.server.dependencies import EngineDep, MetricsDep, SettingsDep, require_task
from emu3.server.errors import APIError, ClientDisconnected, invalid_request
from emu3.server.event_stream import EventStream, sse_error, sse_event, sse_response
from emu3.server.media import encode_image_base64
from emu3.server.openapi import EVENT_STREAM, WORK_ERRORS, request_body
from emu3.server.request_body import RequestBody
from emu3.server.schemas import (
    GenerationRequest,
    ImageCompletedEvent,
    ImageData,
    ImageGenerationRequest,
    ImagePartialEvent,
    ImagesResponse,
    ImageUsage,
    InputTokensDetails,
)

router = APIRouter(prefix="/v1/images", tags=["images"])

MAX_RANDOM_SEED = 2**31


@router.post(
    "/generations",
    response_model=ImagesResponse,
    responses=WORK_ERRORS | EVENT_STREAM,
    openapi_extra=request_body(ImageGenerationRequest),
    dependencies=[Depends(require_task("image"))],
)
async def generate_images(
    request: Request,
    body: Annotated[ImageGenerationRequest, Depends(RequestBody(ImageGenerationRequest))],
    engine: EngineDep,
    settings: SettingsDep,
    metrics: MetricsDep,
) -> Any:
    """Generate images from a text, as JSON or as server-sent events."""
    requests = image_requests(body, engine.checkpoint.defaults)
    events = EventStream(engine, requests, settings, metrics)
    if body.stream:
        return sse_response(_stream(request, events, body, requests[0].seed))
    results: dict[int, ImageResult] = {}
    async for index, event in events.events(request.receive):
        if isinstance(event, ImageResult):
            results[index] = event
    finished = [results[index] for index in range(len(requests))]
    return ImagesResponse(
        created=int(time.time()),
        data=[
            ImageData(b64_json=await _encode(result.image, body), seed=request.seed)
            for result, request in zip(finished, requests, strict=True)
        ],
        usage=_usage(finished),
        **_properties(finished[0].image, body),
    )


@router.post("/edits")
async def edit_image() -> None:
    """Refuse: the model cannot edit images."""
    raise invalid_request(
        None,
        "image edits are not supported: the model generates images from texts only",
        "unsupported",
    )


def image_requests(
    body: ImageGenerationRequest, defaults: GenerationDefaults
) -> tuple[ImageRequest, ...]:
    """Return the engine requests for an API request: one for each of its `n` images."""
    seed = random_seed() if body.seed is None else body.seed
    return tuple(
        ImageRequest(
            body.prompt,
            size=body.size,
            seed=seed + index,
            sampling=sampling_params(body, defaults),
            guidance_scale=body.guidance_scale,
            negative_prompt=body.negative_prompt,
            partials=body.partial_images,
        )
        for index in range(body.n)
    )


def sampling_params(body: GenerationRequest, defaults: GenerationDefaults) -> SamplingParams:
    """Return the sampling of visual codes: the model's own where the request says nothing."""
    if body.temperature == 0:
        return SamplingParams(top_k=1)
    resolved = defaults.resolve(top_k=body.top_k, temperature=body.temperature)
    return SamplingParams(resolved.top_k, resolved.top_p, resolved.temperature)


def random_seed() -> int:
    """Return the seed of a request that gives none."""
    return secrets.randbelow(MAX_RANDOM_SEED)


async def _stream(
    request: Request, events: EventStream, body: ImageGenerationRequest, seed: int
) -> AsyncIterator[str]:
    try:
        async for _, event in events.events(request.receive):
            if isinstance(event, PartialImage | ImageResult):
                message = await _stream_event(event, body, seed)
                yield sse_event(message.model_dump_json(), message.type)
    except APIError as error:
        yield sse_error(error)
    except ClientDisconnected:
        return
    finally:
        events.cancel()


async def _stream_event(
    event: PartialImage | ImageResult, body: ImageGenerationRequest, seed: int
) -> ImagePartialEvent | ImageCompletedEvent:
    fields = _properties(event.image, body)
    fields |= {"b64_json": await _encode(event.image, body), "created_at": int(time.time())}
    if isinstance(event, PartialImage):
        return ImagePartialEvent(partial_image_index=event.index, **fields)
    return ImageCompletedEvent(usage=_usage([event]), seed=seed, **fields)


def _properties(image: Image.Image, body: ImageGenerationRequest) -> dict[str, Any]:
    return {"output_format": body.output_format, "size": f"{image.width}x{image.height}"}


async def _encode(image: Image.Image, body: ImageGenerationRequest) -> str:
    return await run_in_threadpool(
        encode_image_base64, image, body.output_format, body.output_compression
    )


def _usage(results: list[ImageResult]) -> ImageUsage:
    prompt_tokens = sum(result.prompt_tokens for result in results)
    codes = sum(result.codes.numel() for result in results)
    return ImageUsage(
        input_tokens=prompt_tokens,
        input_tokens_details=InputTokensDetails(text_tokens=prompt_tokens),
        output_tokens=codes,
        total_tokens=prompt_tokens + codes,
    )
