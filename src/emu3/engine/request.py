"""What can be asked of the engine, and what it tells while it works. Values only, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from emu3.output import VideoSettings
from emu3.sampling import Sampling


class EngineFull(RuntimeError):
    """The queue has no room; the same request may be let in later."""


class EngineClosed(RuntimeError):
    """The engine takes nothing any more."""


@dataclass(frozen=True)
class DrawRequest:
    """One picture. None stands for what suits the checkpoint (its card), as in `Emu3.image`.

    `size` is (width, height) in pixels and goes before `ratio` and `area`. `partials` pictures of
    the rows so far are decoded on the way.
    """

    prompt: str
    size: tuple[int, int] | None = None
    ratio: str = "1:1"
    area: int | None = None
    seed: int = 0
    sampling: Sampling | None = None
    guidance: float | None = None
    negative: str | None = None
    suffix: str | None = None
    partials: int = 0


@dataclass(frozen=True)
class Reel:
    """A clip: pictures of one size, and how many of them a second."""

    frames: tuple[Image.Image, ...]
    fps: float


@dataclass(frozen=True)
class Coded:
    """A clip in codes, as `Filmed` has it: codes[t][h][w], frames it stands for, their rate."""

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
    footage: Reel | Coded | None = None
    seed: int = 0
    sampling: Sampling | None = None
    guidance: float | None = None
    negative: str | None = None
    suffix: str | None = None


@dataclass(frozen=True)
class Exchange:
    """A question that was answered before, with its pictures and videos."""

    text: str
    answer: str
    images: tuple[Image.Image, ...] = ()
    videos: tuple[Reel, ...] = ()


@dataclass(frozen=True)
class ChatRequest:
    """A question about pictures, videos or neither, and what was said before it.

    With `stream`, the text so far is told after each token.
    """

    text: str
    images: tuple[Image.Image, ...] = ()
    max_new_tokens: int = 1024
    sampling: Sampling = field(default_factory=lambda: Sampling(top_k=1))
    seed: int = 0
    before: tuple[Exchange, ...] = ()
    stream: bool = False
    videos: tuple[Reel, ...] = ()

    @property
    def turns(self) -> tuple[Exchange | ChatRequest, ...]:
        """All questions, this one last."""
        return (*self.before, self)


@dataclass(frozen=True)
class TokensRequest:
    """A picture, to be told its codes; or codes[h][w], to be told what they look like."""

    source: Image.Image | tuple[tuple[int, ...], ...]


Request = DrawRequest | VideoRequest | ChatRequest | TokensRequest


@dataclass(frozen=True)
class Rows:
    """So many rows of codes are finished, of so many."""

    done: int
    of: int


@dataclass(frozen=True)
class Partial:
    """The finished rows as a picture, as wide as the whole and not yet as high."""

    index: int
    picture: Image.Image


@dataclass(frozen=True)
class Text:
    """The answer so far; a U+FFFD at its end may still become another character."""

    so_far: str


@dataclass(frozen=True)
class Frames:
    """The next frames of a video, those of its `done`-th of `total` groups, given ones included."""

    done: int
    total: int
    frames: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Drawn:
    """The end of a picture: itself, its codes row by row, and the ids of its prompt."""

    picture: Image.Image
    codes: tuple[tuple[int, ...], ...]
    prompt_ids: int


@dataclass(frozen=True)
class Measured:
    """What a video will be, before it is: pixels, all of its frames, and their rate."""

    width: int
    height: int
    frames: int
    fps: float


@dataclass(frozen=True)
class Filmed:
    """The end of a video: all frames, their rate, its codes[t][h][w], the ids of its first prompt,
    and its settings.
    """

    frames: tuple[Image.Image, ...]
    fps: float
    codes: tuple[tuple[tuple[int, ...], ...], ...]
    prompt_ids: int
    settings: VideoSettings

    @property
    def coded(self) -> Coded:
        """What `VideoRequest.footage` takes in order to go on with it, nothing encoded again."""
        return Coded(self.codes, len(self.frames), self.fps)


@dataclass(frozen=True)
class Said:
    """The end of an answer; `whole` unless it was cut off at its most tokens."""

    text: str
    whole: bool
    prompt_ids: int
    new_ids: int


@dataclass(frozen=True)
class Tokens:
    """The end of a TokensRequest: codes[h][w], and the picture that they stand for."""

    codes: tuple[tuple[int, ...], ...]
    picture: Image.Image


@dataclass(frozen=True)
class Failed:
    """The end of a request that could not be done, and why; `ours` if it is nobody's input."""

    message: str
    ours: bool


@dataclass(frozen=True)
class Cancelled:
    """The end of a request that nobody wants any more."""


End = Drawn | Filmed | Said | Tokens | Failed | Cancelled
Event = Rows | Partial | Frames | Text | End


@dataclass(frozen=True)
class Stats:
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
