"""What `image`, `video` and `extend` give back, and how a picture becomes a file that remembers how
it was made. Clips are written by `video.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin

from emu3.errors import InputError
from emu3.files import atomic_write, check_writable

if TYPE_CHECKING:  # PyTorch takes seconds to import, and a bad path should be answered at once
    from torch import Tensor

PNG_KEY = "emu3"
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
EXIF_DESCRIPTION = 0x010E


@dataclass(frozen=True)
class ImageSettings:
    """Everything that decides a picture: the same settings and model draw the same codes."""

    prompt: str
    suffix: str
    negative_prompt: str
    ratio: str
    area: int
    guidance_scale: float
    top_k: int
    top_p: float
    temperature: float
    seed: int
    model: str
    dtype: str  # the precision: fp32, bf16, int8 or int4


@dataclass(frozen=True)
class ImageOutput:
    """Pictures, their codes [h, w], and the settings of each, in the order of the prompts."""

    images: list[Image.Image]
    codes: list[Tensor]
    settings: list[ImageSettings]

    def save(self, path: str | Path, index: int = 0) -> Path:
        """Write one picture with its settings inside (PNG text `emu3`, EXIF description else)."""
        path = Path(path)
        check_image_path(path)
        save_image(self.images[index], path, asdict(self.settings[index]))
        return path


@dataclass(frozen=True)
class VideoSettings:
    """Everything that decides a video, but for the frames that were given.

    The first `given` frames of codes are those of a picture or a clip, and were not drawn.
    `seconds` counts what was asked for, without a clip that was gone on with.
    """

    prompt: str
    suffix: str
    negative_prompt: str
    ratio: str
    area: int
    seconds: float
    fps: float
    guidance_scale: float
    top_k: int
    top_p: float
    temperature: float
    seed: int
    given: int
    model: str
    dtype: str  # the precision: fp32, bf16, int8 or int4


@dataclass(frozen=True)
class VideoOutput:
    """A video: frames [T, H, W, 3] uint8, codes [t, h, w], frames a second, and its settings.

    A frame of codes is a group of four frames; the last may stand for fewer.
    """

    frames: Tensor
    codes: Tensor
    fps: float
    settings: VideoSettings


def check_image_path(path: Path) -> None:
    """Raise InputError when no picture could be written there: before the work, not after."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: end the name in {', '.join(FORMATS)}")
    check_writable(path)


def save_image(picture: Image.Image, path: Path, settings: dict[str, object]) -> None:
    """Write a picture and the settings it was made with; whole or not at all."""
    kind = FORMATS[path.suffix.lower()]
    with atomic_write(path) as temporary:
        if kind == "PNG":
            info = PngImagePlugin.PngInfo()
            info.add_itxt(PNG_KEY, json.dumps(settings, ensure_ascii=False))
            picture.save(temporary, format=kind, pnginfo=info)
        else:
            exif = Image.Exif()
            exif[EXIF_DESCRIPTION] = json.dumps(settings)  # this field holds ASCII only
            picture.save(temporary, format=kind, exif=exif, quality=95)
