"""What can be asked of the engine, and what it tells while it works. Values only, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from emu3.inference.sampling import SamplingParams
from emu3.outputs import VideoSettings


class EngineFull(RuntimeError):
    """The queue has no room; the same request may be let in later."""


class EngineClosed(RuntimeError):
    """The engine takes nothing any more."""


@dataclass(frozen=True)
class ImageRequest:
    """One picture. None stands for what suits the checkpoint (its card), as in `Emu3.image`.

    `size` is (width, height) in pixels and goes before `ratio` and `area`. `partials` pictures of
    the rows so far are decoded on the way.
    """

    prompt: str
    size: tuple[int, int] | None = None
    ratio: str = "1:1"
    area: int | None = None
    seed: int = 0
    sampling: SamplingParams | None = None
    guidance: float | None = None
    negative: str | None = None
    suffix: str | None = None
    partials: int = 0


@dataclass(frozen=True)
class VideoInput:
    """A clip: pictures of one size, and how many of them a second."""

    frames: tuple[Image.Image, ...]
    fps: float


@dataclass(frozen=True)
class EncodedVideo:
    """A clip in codes, as `VideoResult` has it: codes[t][h][w], frames it stands for, their rate."""

    codes: tuple[tuple[tuple[int, ...], ...], ...]
    frames: int
    fps: float


@dataclass(frozen=True)
class VideoRequest:
    """One video. None stands for what suits the checkpoint (its card), as in `Emu3.video`.

    `size` is (width, height) in pixels and goes before `ratio` and `area`. `image` is its first
    four frames. With `footage` it is what comes behind that clip, as in `Emu3.extend`: `seconds`
    more of its rate. Both decide the size, so it must not be given beside them; and `footage`
    decides the rate, so that `fps` must be None there. Else None is 8 frames a second.
    """

    prompt: str
    seconds: float = 2.0
    fps: float | None = None
    size: tuple[int, int] | None = None
    ratio: str | None = None
    area: int | None = None
    image: Image.Image | None = None
    footage: VideoInput | EncodedVideo | None = None
    seed: int = 0
    sampling: SamplingParams | None = None
    guidance: float | None = None
    negative: str | None = None
    suffix: str | None = None


@dataclass(frozen=True)
class ChatTurn:
    """A question that was answered before, with its pictures and videos."""

    text: str
    answer: str
    images: tuple[Image.Image, ...] = ()
    videos: tuple[VideoInput, ...] = ()


@dataclass(frozen=True)
class ChatRequest:
    """A question about pictures, videos or neither, and what was said before it.

    With `stream`, the text so far is told after each token.
    """

    text: str
    images: tuple[Image.Image, ...] = ()
    max_new_tokens: int = 1024
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(top_k=1))
    seed: int = 0
    before: tuple[ChatTurn, ...] = ()
    stream: bool = False
    videos: tuple[VideoInput, ...] = ()

    @property
    def turns(self) -> tuple[ChatTurn | ChatRequest, ...]:
        """All questions, this one last."""
        return (*self.before, self)


@dataclass(frozen=True)
class TokenizeRequest:
    """A picture, to be told its codes; or codes[h][w], to be told what they look like."""

    source: Image.Image | tuple[tuple[int, ...], ...]


Request = ImageRequest | VideoRequest | ChatRequest | TokenizeRequest


@dataclass(frozen=True)
class RowProgress:
    """So many rows of codes are finished, of so many."""

    done: int
    of: int


@dataclass(frozen=True)
class PartialImage:
    """The finished rows as a picture, as wide as the whole and not yet as high."""

    index: int
    picture: Image.Image


@dataclass(frozen=True)
class PartialText:
    """The answer so far; a U+FFFD at its end may still become another character."""

    so_far: str


@dataclass(frozen=True)
class VideoFrames:
    """The next frames of a video, those of its `done`-th of `total` groups, given ones included."""

    done: int
    total: int
    frames: tuple[Image.Image, ...]


@dataclass(frozen=True)
class ImageResult:
    """The end of a picture: itself, its codes row by row, and the ids of its prompt."""

    picture: Image.Image
    codes: tuple[tuple[int, ...], ...]
    prompt_ids: int


@dataclass(frozen=True)
class VideoSpec:
    """What a video will be, before it is: pixels, all of its frames, and their rate."""

    width: int
    height: int
    frames: int
    fps: float


@dataclass(frozen=True)
class VideoResult:
    """The end of a video: all frames, their rate, its codes[t][h][w], the ids of its first prompt,
    and its settings.
    """

    frames: tuple[Image.Image, ...]
    fps: float
    codes: tuple[tuple[tuple[int, ...], ...], ...]
    prompt_ids: int
    settings: VideoSettings

    @property
    def coded(self) -> EncodedVideo:
        """What `VideoRequest.footage` takes in order to go on with it, nothing encoded again."""
        return EncodedVideo(self.codes, len(self.frames), self.fps)


@dataclass(frozen=True)
class ChatResult:
    """The end of an answer; `whole` unless it was cut off at its most tokens."""

    text: str
    whole: bool
    prompt_ids: int
    new_ids: int


@dataclass(frozen=True)
class TokenizeResult:
    """The end of a TokensRequest: codes[h][w], and the picture that they stand for."""

    codes: tuple[tuple[int, ...], ...]
    picture: Image.Image


@dataclass(frozen=True)
class RequestFailed:
    """The end of a request that could not be done, and why; `ours` if it is nobody's input."""

    message: str
    ours: bool


@dataclass(frozen=True)
class RequestCancelled:
    """The end of a request that nobody wants any more."""


FinalEvent = (
    ImageResult | VideoResult | ChatResult | TokenizeResult | RequestFailed | RequestCancelled
)
Event = RowProgress | PartialImage | VideoFrames | PartialText | FinalEvent


@dataclass(frozen=True)
class EngineStats:
    """What the engine holds now, and what it has done since it started."""

    waiting: int
    pictures: int
    videos: int
    answers: int
    places: int  # of the caches, in ids of one row, planned for those at work
    most_places: int
    passes: int
    codes: int
    tokens: int
    drawn: int
    filmed: int
    said: int
    failed: int
    cancelled: int
    refused: int
    open: bool
