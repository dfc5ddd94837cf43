"""Events: what the engine reports while it works on a request, and how the request ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from emu3.outputs import ImageSettings, VideoSettings
from emu3.processing.document_format import VideoCodes

RequestId = int


class EngineFull(RuntimeError):
    """The queue is full; the same request may be accepted later."""


class EngineClosed(RuntimeError):
    """The engine accepts no requests any more."""


@dataclass(frozen=True)
class RequestStarted:
    """The request left the queue at `time`, in seconds of `time.monotonic`. Its first event."""

    time: float


@dataclass(frozen=True)
class RowProgress:
    """`done` of `total` rows of an image's codes are finished: `codes` [done, w]."""

    done: int
    total: int
    codes: Tensor


@dataclass(frozen=True)
class PartialImage:
    """The finished rows decoded: as wide as the whole image and not yet as high."""

    index: int
    image: Image.Image


@dataclass(frozen=True)
class PartialText:
    """The answer so far; a U+FFFD at its end may still become another character."""

    text: str


@dataclass(frozen=True)
class VideoFrames:
    """The next frames of a video, [n, H, W, 3] uint8: the `done`-th of `total` groups.

    Groups come in order, given ones first.
    """

    done: int
    total: int
    frames: Tensor
    settings: VideoSettings


@dataclass(frozen=True)
class ImageResult:
    """A finished image, its codes [h, w], its settings, and the number of prompt tokens."""

    image: Image.Image
    codes: Tensor
    settings: ImageSettings
    prompt_tokens: int


@dataclass(frozen=True)
class VideoSpec:
    """What a video will be: size in pixels, number of frames, and frames per second."""

    width: int
    height: int
    frames: int
    fps: float


@dataclass(frozen=True)
class VideoResult:
    """A finished video: frames [T, H, W, 3] uint8, codes [t, h, w], settings, prompt tokens."""

    frames: Tensor
    codes: Tensor
    settings: VideoSettings
    prompt_tokens: int

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.settings.fps

    @property
    def video_codes(self) -> VideoCodes:
        """What `VideoRequest.video` takes to continue this video without encoding it again."""
        return VideoCodes(self.codes, self.fps, len(self.frames))


@dataclass(frozen=True)
class ChatResult:
    """A finished answer; `complete` unless it was cut off at its token limit.

    `ids` are the new token ids, the stop id included.
    """

    text: str
    complete: bool
    prompt_tokens: int
    ids: tuple[int, ...]

    @property
    def new_tokens(self) -> int:
        """Token ids generated."""
        return len(self.ids)


@dataclass(frozen=True)
class TokenizeResult:
    """Codes [h, w] and the image that they decode to."""

    codes: Tensor
    image: Image.Image


@dataclass(frozen=True)
class RequestFailed:
    """The request failed with `error`. `internal` marks a fault of the engine, not the input."""

    message: str
    internal: bool
    error: BaseException | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class RequestCancelled:
    """The request was cancelled."""


FinalEvent = (
    ImageResult | VideoResult | ChatResult | TokenizeResult | RequestFailed | RequestCancelled
)
Event = RequestStarted | RowProgress | PartialImage | VideoFrames | PartialText | FinalEvent


@dataclass(frozen=True)
class RequestEvent:
    """An event of one request."""

    request_id: RequestId
    event: Event


@dataclass(frozen=True)
class EngineStats:
    """What the engine holds now, and what it has done since it started."""

    waiting: int
    running_images: int
    running_videos: int
    running_chats: int
    kv_cache_tokens: int  # reserved: rows times tokens per row
    max_kv_cache_tokens: int
    steps: int
    generated_codes: int
    generated_tokens: int
    finished_images: int
    finished_videos: int
    finished_chats: int
    failed: int
    cancelled: int
    refused: int
    open: bool = True
