"""Request and response bodies: the part of OpenAI's API that this server implements.

Requests are strict: no number in a string (but in forms), and no unknown field, so that a
misspelled one is not mistaken for a default. null stands for a field that is left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from emu3.server.schema_types import (
    Fps,
    GuidanceScale,
    IgnoredText,
    ImageReference,
    ModelName,
    Only,
    Prompt,
    Range,
    Seconds,
    Seed,
    Size,
    Temperature,
    Text,
    TopK,
    VideoReference,
    invalid,
)

MAX_MESSAGES = 200
DEFAULT_SECONDS = 2.0  # of a video, as in `Emu3.video`


class RequestModel(BaseModel):
    """Base of all objects in request bodies. The validation context is the server's `Settings`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values


class GenerationRequest(RequestModel):
    """Fields of all requests that generate images or videos. None is the model's default."""

    model: ModelName | None = None
    negative_prompt: Text | None = None
    seed: Seed | None = None
    guidance_scale: GuidanceScale | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    user: IgnoredText | None = None


class ImageGenerationRequest(GenerationRequest):
    """`POST /v1/images/generations`. Image i of `n` has seed `seed + i`."""

    prompt: Prompt
    n: Annotated[int, Range(1, "max_n")] = 1
    size: Size = None
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Range(0, 100)] = 95
    stream: bool = False
    partial_images: Annotated[int, Range(0, 3)] = 0
    quality: Annotated[Any, Only("auto", "standard")] = None
    background: Annotated[Any, Only("auto", "opaque")] = None
    moderation: Annotated[Any, Only("auto", "low")] = None
    style: Annotated[Any, Only("vivid", "natural")] = None

    @model_validator(mode="after")
    def _check_stream(self) -> ImageGenerationRequest:
        if self.partial_images and not self.stream:
            raise invalid("only allowed with stream: true", "partial_images")
        if self.stream and self.n > 1:
            raise invalid("a stream has one image; leave n out, or do not stream", "n")
        return self


class ImageURL(RequestModel):
    """Where the image of a content part is."""

    url: str
    detail: Annotated[Any, Only("auto", "low", "high")] = None


class VideoURL(RequestModel):
    """Where the video of a content part is, and at how many frames per second to sample it."""

    url: str
    fps: Fps | None = None


class ContentPart(RequestModel):
    """A part of a message: a text, an image or a video, in the field that `type` names."""

    type: Literal["text", "image_url", "video_url"]
    text: Text | None = None
    image_url: ImageURL | None = None
    video_url: VideoURL | None = None

    @model_validator(mode="after")
    def _check_type(self) -> ContentPart:
        for name in ("text", "image_url", "video_url"):
            if (getattr(self, name) is not None) != (name == self.type):
                problem = "required" if name == self.type else "not allowed"
                raise invalid(f"{problem} in a part of type {self.type!r}", name)
        return self


def _content_parts(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise invalid("must be a string or a list of parts")
    return value


def _check_role(value: Any) -> Any:
    if value in ("system", "developer"):
        raise invalid(
            "not supported: the model's template has a fixed system message; "
            "put instructions into the user's message"
        )
    return value


class ChatMessage(RequestModel):
    """One message of a conversation."""

    role: Annotated[Literal["user", "assistant"], BeforeValidator(_check_role)]
    content: Annotated[
        list[ContentPart],
        Field(min_length=1),
        BeforeValidator(_content_parts, json_schema_input_type=str | list[ContentPart]),
    ]
    refusal: Annotated[Any, Only()] = None
    audio: Annotated[Any, Only()] = None
    function_call: Annotated[Any, Only()] = None
    tool_calls: Annotated[Any, Only([])] = None
    annotations: Annotated[Any, Only([])] = None

    @model_validator(mode="after")
    def _check_assistant(self) -> ChatMessage:
        for index, part in enumerate(self.content):
            if self.role == "assistant" and part.type != "text":
                raise invalid("must be 'text' in an assistant message", f"content[{index}].type")
        return self


class StreamOptions(RequestModel):
    """Options of a streamed chat completion."""

    include_usage: bool = False
    include_obfuscation: Annotated[Any, Only(True, False)] = None


class ChatCompletionRequest(RequestModel):
    """`POST /v1/chat/completions`. Greedy unless temperature, top_p or top_k is given."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: ModelName | None = None
    max_tokens: Annotated[int, Range(1, "max_tokens")] | None = None
    max_completion_tokens: Annotated[int, Range(1, "max_tokens")] | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Range(0, 1)] | None = None
    top_k: TopK | None = None
    seed: Seed | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: IgnoredText | None = None
    safety_identifier: IgnoredText | None = None
    prompt_cache_key: IgnoredText | None = None
    n: Annotated[Any, Only(1)] = None
    store: Annotated[Any, Only(False)] = None
    service_tier: Annotated[Any, Only("auto", "default")] = None
    logprobs: Annotated[Any, Only(False)] = None
    frequency_penalty: Annotated[Any, Only(0, 0.0)] = None
    presence_penalty: Annotated[Any, Only(0, 0.0)] = None
    logit_bias: Annotated[Any, Only({})] = None
    response_format: Annotated[Any, Only({"type": "text"})] = None
    modalities: Annotated[Any, Only(["text"])] = None
    tools: Annotated[Any, Only([])] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    parallel_tool_calls: Annotated[Any, Only(True, False)] = None
    stop: Annotated[Any, Only([])] = None

    @model_validator(mode="after")
    def _check_combinations(self) -> ChatCompletionRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise invalid("give this or max_completion_tokens, not both", "max_tokens")
        if self.top_p == 0:
            raise invalid("must be above 0; use temperature 0 for greedy decoding", "top_p")
        if self.stream_options is not None and not self.stream:
            raise invalid("only allowed with stream: true", "stream_options")
        return self


class VideoGenerationRequest(GenerationRequest):
    """`POST /v1/videos`. The image of `input_reference` is the first frame and sets the size."""

    prompt: Prompt
    seconds: Seconds = DEFAULT_SECONDS
    size: Size = None
    fps: Fps | None = None
    input_reference: ImageReference | None = None


class VideoExtensionRequest(GenerationRequest):
    """`POST /v1/videos/{id}/extend`. `prompt` defaults to that of the video."""

    prompt: Text | None = None
    seconds: Seconds = DEFAULT_SECONDS


class VideoSourceExtensionRequest(VideoExtensionRequest):
    """`POST /v1/videos/extensions`. `fps` is the rate at which an uploaded video is sampled."""

    video: VideoReference
    fps: Fps | None = None


class VideoListQuery(BaseModel):
    """The query of `GET /v1/videos`."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Range(1, 100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: Annotated[str, Field(max_length=100)] | None = None


class VideoContentQuery(BaseModel):
    """The query of `GET /v1/videos/{id}/content`."""

    model_config = ConfigDict(extra="forbid")

    variant: Literal["video", "thumbnail", "spritesheet"] = "video"


class ErrorDetail(BaseModel):
    """What went wrong. `param` is the field of the request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class InputTokensDetails(BaseModel):
    """Input tokens by kind."""

    text_tokens: int
    image_tokens: int = 0


class ImageUsage(BaseModel):
    """Prompt tokens read and visual codes generated."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    total_tokens: int


class ImageProperties(BaseModel):
    """What responses and stream events say of their images."""

    background: str = "opaque"
    output_format: str
    size: str
    quality: str = "auto"


class ImageData(BaseModel):
    """One image as a file in base64, and its seed."""

    b64_json: str
    seed: int


class ImagesResponse(ImageProperties):
    """Generated images."""

    created: int
    data: list[ImageData]
    usage: ImageUsage


class ImagePartialEvent(ImageProperties):
    """The rows of an image that are finished: as wide as the whole and not yet as high."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    b64_json: str
    created_at: int
    partial_image_index: int


class ImageCompletedEvent(ImageProperties):
    """The finished image; the last event of a stream."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    b64_json: str
    created_at: int
    usage: ImageUsage
    seed: int


class ChatUsage(BaseModel):
    """Token ids read and generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(BaseModel):
    """The model's answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


FinishReason = Literal["stop", "length"]


class ChatChoice(BaseModel):
    """The answer of a chat completion."""

    index: int = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """An answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class ChatChunkChoice(BaseModel):
    """The text that a chunk adds to the answer."""

    index: int = 0
    delta: dict[str, str]
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(BaseModel):
    """A part of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: ChatUsage | None = None


class VideoError(BaseModel):
    """Why a video failed."""

    code: str = "video_failed"
    message: str


class Video(BaseModel):
    """A video job. Times are seconds since 1970."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: None = None
    error: VideoError | None


class VideoList(BaseModel):
    """A page of video jobs."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Model(BaseModel):
    """The served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "emu3"


class ModelList(BaseModel):
    """The models of this server, which is one."""

    object: Literal["list"] = "list"
    data: list[Model]


class Status(BaseModel):
    """The answer of a health check."""

    status: Literal["ok"] = "ok"
