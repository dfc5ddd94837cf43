"""Results of `Emu3.image`, `video` and `extend`, and image files that store their settings.

Video files are written by `processing/video.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin

from emu3.errors import InputError
from emu3.files import atomic_write, check_writable

if TYPE_CHECKING:  # PyTorch takes seconds to import; a bad path is refused at once
    from torch import Tensor

PNG_KEY = "emu3"
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
EXIF_DESCRIPTION = 0x010E


@dataclass(frozen=True)
class ImageSettings:
    """Everything that decides an image: the same settings and model generate the same codes."""

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
    """Images, their codes [h, w], and the settings of each, in the order of the prompts."""

    images: list[Image.Image]
    codes: list[Tensor]
    settings: list[ImageSettings]

    def save(self, path: str | Path, index: int = 0) -> Path:
        """Write one image with its settings (PNG text `emu3`, otherwise the EXIF description)."""
        path = Path(path)
        check_image_path(path)
        save_image(self.images[index], path, asdict(self.settings[index]))
        return path


@dataclass(frozen=True)
class VideoSettings(ImageSettings):
    """Everything that decides a video, except for frames that were given.

    The first `given` groups are those of an image or a clip and were not generated. `seconds` is
    the generated duration, without a clip that was continued.
    """

    seconds: float
    fps: float
    given: int


@dataclass(frozen=True)
class VideoOutput:
    """A video: frames [T, H, W, 3] uint8, codes [t, h, w], frames per second, and its settings.

    A frame of codes stands for a group of four frames; the last for fewer, possibly.
    """

    frames: Tensor
    codes: Tensor
    fps: float
    settings: VideoSettings


def check_image_path(path: Path) -> None:
    """Raise InputError if no image can be written there; called before the work, not after."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: the name must end in {', '.join(FORMATS)}")
    check_writable(path)


def save_image(image: Image.Image, path: Path, settings: dict[str, object]) -> None:
    """Write an image with its settings, to a temporary name that is then renamed."""
    kind = FORMATS[path.suffix.lower()]
    with atomic_write(path) as temporary:
        if kind == "PNG":
            info = PngImagePlugin.PngInfo()
            info.add_itxt(PNG_KEY, json.dumps(settings, ensure_ascii=False))
            image.save(temporary, format=kind, pnginfo=info)
        else:
            exif = Image.Exif()
            exif[EXIF_DESCRIPTION] = json.dumps(settings)  # this field holds ASCII only
            image.save(temporary, format=kind, exif=exif, quality=95)
