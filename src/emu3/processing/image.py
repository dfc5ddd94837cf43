"""Pictures to pixels and back, and the sizes that pictures may have.

Source: `image_processing_emu3visionvq.py` and `processing_emu3.py` of baaivision/Emu3.
"""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from emu3.config import PreprocessorConfig
from emu3.errors import InputError

MAX_ASPECT = 5  # of any picture, in or out
MAX_SOURCE_PIXELS = 100_000_000  # of a file before it is shrunk; more is refused unread
MAX_AREA = 2**31  # pixels asked for; the decoder's context is exceeded long before
RATIO = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")


def open_image(path: Path, data: bytes | None = None) -> Image.Image:
    """Read a picture file, upright as its EXIF says; with `data`, bytes that `path` only names.

    Raises InputError when it is missing, no picture, cut short, or larger than 100 megapixels.
    """
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as opened:
            if opened.width * opened.height > MAX_SOURCE_PIXELS:
                raise InputError(
                    f"{path}: {opened.width}x{opened.height} is too large; "
                    f"at most {MAX_SOURCE_PIXELS // 1_000_000} megapixels"
                )
            picture = ImageOps.exif_transpose(opened).copy()
            if picture.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255, all white
                picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
            return picture
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name a file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a picture that Pillow can read") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: too large; at most 100 megapixels") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: broken or cut short ({error})") from None


def parse_ratio(ratio: str) -> tuple[int, int]:
    """`"16:9"` as (width, height) = (16, 9); raises InputError on anything else or beyond 5:1."""
    match = RATIO.fullmatch(ratio.strip())
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not width or not height:
        raise InputError(f"ratio {ratio!r}: expected width:height such as 1:1 or 16:9")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(f"ratio {ratio!r}: one side may be at most {MAX_ASPECT} times the other")
    return width, height


def size_in_codes(ratio: str, area: int, factor: int) -> tuple[int, int]:
    """Height and width in codes of a picture of about `area` pixels.

    Raises InputError on a bad ratio or an area that leaves no code.
    """
    width, height = parse_ratio(ratio)
    if not 0 < area <= MAX_AREA:
        raise InputError(f"area {area}: must be a number of pixels from 1 to {MAX_AREA}")
    scale = math.sqrt(area / (height * width))
    size = round(height * scale / factor), round(width * scale / factor)
    if min(size) < 1:
        raise InputError(f"area {area} with ratio {ratio}: less than one code of {factor} pixels")
    return size


def smart_resize(height: int, width: int, config: PreprocessorConfig) -> tuple[int, int]:
    """The size in pixels that a picture is resized to: whole codes, area in the config's bounds.

    Raises InputError on a side shorter than a code or an aspect ratio above five.
    """
    factor = config.spatial_factor
    if min(height, width) < factor:
        raise InputError(f"picture of {width}x{height}: both sides need {factor} pixels or more")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(
            f"picture of {width}x{height}: one side may be at most {MAX_ASPECT} times the other"
        )
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > config.max_pixels:
        shrink = math.sqrt(height * width / config.max_pixels)
        new_height = math.floor(height / shrink / factor) * factor
        new_width = math.floor(width / shrink / factor) * factor
    elif new_height * new_width < config.min_pixels:
        grow = math.sqrt(config.min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    if min(new_height, new_width) < factor:
        raise InputError(
            f"picture of {width}x{height}: too long and thin for {config.max_pixels} pixels"
        )
    return new_height, new_width


def to_pixels(picture: Image.Image, config: PreprocessorConfig) -> Tensor:
    """A picture of any size and mode to pixels [3, H, W] float32, normalised as the config says."""
    height, width = smart_resize(picture.height, picture.width, config)
    rgb = picture.convert("RGB").resize((width, height), Image.Resampling(config.resample))
    # In float64 up to here and float32 from here, as transformers' image processors do it.
    scaled = (np.asarray(rgb) * config.rescale_factor).astype(np.float32)
    mean = np.array(config.image_mean, np.float32)
    std = np.array(config.image_std, np.float32)
    return torch.from_numpy((scaled - mean) / std).movedim(-1, 0).contiguous()


def to_array(pixels: Tensor, config: PreprocessorConfig) -> np.ndarray:
    """Pixels [..., 3, H, W] to uint8 [..., H, W, 3]; cut to 0..255 and truncated, as published."""
    mean = np.array(config.image_mean, np.float32)
    std = np.array(config.image_std, np.float32)
    values = pixels.detach().float().movedim(-3, -1).cpu().numpy()
    # The inverse of the normalisation, in the form and order in which the reference computes it.
    values = (values - (-mean / std)) / (1 / std) / np.float32(config.rescale_factor)
    return values.clip(0, 255).astype(np.uint8)


def to_image(pixels: Tensor, config: PreprocessorConfig) -> Image.Image:
    """Pixels [3, H, W] to a picture."""
    return Image.fromarray(to_array(pixels, config))
