"""The methods that the evaluation calls on a model; `emu3.Emu3` has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

    from emu3.processing.video import Clip, Frame


class GeneratedImages(Protocol):
    """The result of generating images."""

    @property
    def images(self) -> Sequence[Image.Image]:
        """One image per prompt, in the order of the prompts."""


class GeneratedVideo(Protocol):
    """The result of generating or extending a video."""

    @property
    def frames(self) -> Tensor:
        """uint8 [T, H, W, 3]."""


class ImageModel(Protocol):
    """What the evaluation of images calls."""

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
    ) -> GeneratedImages:
        """Generate `num_images` images for each prompt."""

    def chat_batch(
        self, texts: list[str], images: list[Image.Image], /, *, max_new_tokens: int
    ) -> list[str]:
        """Answer each text about the image at the same index; images may differ in size."""

    def encode(self, image: Image.Image, /) -> Tensor:
        """Codes [h, w] of an image."""

    def decode(self, codes: Tensor, /) -> Image.Image | Tensor:
        """The image of codes [h, w]."""


class VideoModel(Protocol):
    """What the evaluation of videos calls."""

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
    ) -> GeneratedVideo:
        """Generate a video of 64x64 pixels."""

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
    ) -> GeneratedVideo:
        """The given frames and their continuation. Without a prompt, the model captions them."""

    def chat(self, text: str, /, *, videos: Sequence[Clip], max_new_tokens: int) -> str:
        """Answer a question about videos."""

    def encode(self, frames: Tensor, /) -> Tensor:
        """Codes [t, h, w] of frames uint8 [4t, H, W, 3]."""

    def decode(self, codes: Tensor, /) -> Image.Image | Tensor:
        """Frames uint8 [4t, H, W, 3] of codes [t, h, w]."""
