"""What the evaluation asks of a model; anything with these four methods can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


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
