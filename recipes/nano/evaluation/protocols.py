"""What the evaluation asks of a model; anything with these methods can be measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

    from emu3.processing.video import Clip, Frame


class Drawn(Protocol):
    """What a model gives back when it draws."""

    @property
    def images(self) -> Sequence[Image.Image]:
        """One picture a prompt, in their order."""


class Emu3Like(Protocol):
    """What the evaluation asks of a model."""

    def image(
        self,
        prompts: list[str],
        /,
        *,
        ratio: str,
        guidance_scale: float,
        top_k: int,
        top_p: float,
        temperature: float,
        num_images: int,
        seed: int,
    ) -> Drawn:
        """Draw `num_images` pictures for each prompt."""

    def chat_batch(
        self, texts: list[str], images: list[Image.Image], /, *, max_new_tokens: int
    ) -> list[str]:
        """Answer each text about the image of the same place; the images' sizes may differ."""

    def encode(self, picture: Image.Image, /) -> Tensor:
        """The picture's codes [h, w]."""

    def decode(self, codes: Tensor, /) -> Image.Image | Tensor:
        """The picture of codes [h, w]; anything but a picture is for codes of other shapes."""


class Filmed(Protocol):
    """What a model gives back when it makes a clip."""

    @property
    def frames(self) -> Tensor:
        """uint8 [T, H, W, 3]."""


class Emu3Films(Protocol):
    """What the evaluation of clips asks of a model."""

    def video(
        self,
        prompt: str,
        /,
        *,
        seconds: float,
        fps: float,
        guidance_scale: float,
        top_k: int,
        top_p: float,
        temperature: float,
        seed: int,
    ) -> Filmed:
        """Draw a clip of 64x64 pixels."""

    def extend(
        self,
        frames: Iterator[Frame],
        /,
        *,
        seconds: float,
        fps: float,
        prompt: str | None,
        top_k: int,
        top_p: float,
        temperature: float,
        seed: int,
    ) -> Filmed:
        """Go on with a clip: the old frames and the new ones. None: with what it sees itself."""

    def chat(self, text: str, /, *, videos: Sequence[Clip], max_new_tokens: int) -> str:
        """Answer a question about clips."""

    def encode(self, frames: Tensor, /) -> Tensor:
        """Codes [t, h, w] of frames uint8 [4t, H, W, 3]."""

    def decode(self, codes: Tensor, /) -> Image.Image | Tensor:
        """Frames uint8 [4t, H, W, 3] of codes [t, h, w]."""
