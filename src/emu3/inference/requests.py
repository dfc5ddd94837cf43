"""Requests: what the engine can be asked for. Values only; `validation.py` checks them."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from emu3.inference.sampling import SamplingParams
from emu3.processing.document_format import VideoCodes


@dataclass(frozen=True)
class ImageRequest:
    """One image. None stands for the checkpoint's generation defaults.

    `size` is (width, height) in pixels and takes precedence over `ratio` (width:height) and `area`
    (pixels, approximate). `partials` partial images are decoded on the way. `allow_special` lets
    names of control tokens in the prompt become these tokens.
    """

    prompt: str
    size: tuple[int, int] | None = None
    ratio: str = "1:1"
    area: int | None = None
    seed: int = 0
    sampling: SamplingParams | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    suffix: str | None = None
    partials: int = 0
    allow_special: bool = False


@dataclass(frozen=True)
class VideoInput:
    """Frames of a video, [T, H, W, 3] uint8, and their rate in frames per second."""

    frames: Tensor
    fps: float


@dataclass(frozen=True)
class VideoRequest:
    """One video. None stands for the checkpoint's generation defaults.

    `size` is (width, height) in pixels and takes precedence over `ratio` and `area`. `image` is the
    first four frames. With `video`, frames or codes, the request is a continuation: `seconds` more
    of its rate. `image` and `video` decide the size, so size, ratio and area must be None; `video`
    decides the rate, so `fps` must be None. Otherwise `fps` None is 8 frames per second.

    A continuation with `prompt` None is captioned by the model first if the checkpoint can do so
    (`captioning.py`); guidance is then 1 unless it or a negative prompt is given.
    """

    prompt: str | None
    seconds: float = 2.0
    fps: float | None = None
    size: tuple[int, int] | None = None
    ratio: str | None = None
    area: int | None = None
    image: Image.Image | None = None
    video: VideoInput | VideoCodes | None = None
    seed: int = 0
    sampling: SamplingParams | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    suffix: str | None = None


@dataclass(frozen=True)
class ChatTurn:
    """An earlier question with its answer. `answer_ids` are the ids of `answer` if they are known.

    Images are PIL images or their codes [h, w].
    """

    text: str
    answer: str
    images: tuple[Image.Image | Tensor, ...] = ()
    videos: tuple[VideoInput | VideoCodes, ...] = ()
    answer_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A question about images, videos or neither, after the turns of `history`.

    With `stream`, the text so far is an event after each token. Images are PIL images or their
    codes [h, w]. `keep_cache` saves the KV cache for the next turn (`ModelRunner`).
    """

    text: str
    images: tuple[Image.Image | Tensor, ...] = ()
    max_new_tokens: int = 1024
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(top_k=1))
    seed: int = 0
    history: tuple[ChatTurn, ...] = ()
    stream: bool = False
    videos: tuple[VideoInput | VideoCodes, ...] = ()
    allow_special: bool = False
    keep_cache: bool = False

    @property
    def turns(self) -> tuple[ChatTurn | ChatRequest, ...]:
        """All questions, this one last."""
        return (*self.history, self)


@dataclass(frozen=True)
class TokenizeRequest:
    """The vision tokenizer alone: an image to its codes, or codes [h, w] to their image."""

    source: Image.Image | Tensor


Request = ImageRequest | VideoRequest | ChatRequest | TokenizeRequest
