"""Image files and PIL images to pixels and back, and the sizes that images may have.

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

MAX_ASPECT = 5  # longer side over shorter side, of input and output images
MAX_SOURCE_PIXELS = 100_000_000  # of an input file; larger files are refused before decoding
MAX_AREA = 2**31  # of a requested area; the decoder's context length is exceeded long before
RATIO = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")


def open_image(path: Path, data: bytes | None = None) -> Image.Image:
    """Read an image file and apply its EXIF orientation.

    With `data`, these bytes are read and `path` only names them in errors. Raises InputError if
    the file is missing, not an image, truncated, or larger than 100 megapixels.
    """
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as opened:
            if opened.width * opened.height > MAX_SOURCE_PIXELS:
                raise InputError(
                    f"{path}: {opened.width}x{opened.height} is too large; "
                    f"the limit is {MAX_SOURCE_PIXELS // 1_000_000} megapixels"
                )
            image = ImageOps.exif_transpose(opened).copy()
            if image.mode.startswith("I;16"):  # Pillow's conversion clips 16-bit values at 255
                image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            return image
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give a file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: too large; the limit is 100 megapixels") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged or truncated ({error})") from None


def parse_ratio(ratio: str) -> tuple[int, int]:
    """Parse width:height, such as `"16:9"`, to (16, 9).

    Raises InputError on another form or a ratio beyond 5:1.
    """
    match = RATIO.fullmatch(ratio.strip())
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not width or not height:
        raise InputError(f"ratio {ratio!r}: expected width:height, such as 1:1 or 16:9")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(f"ratio {ratio!r}: one side may be at most {MAX_ASPECT} times the other")
    return width, height


def size_in_codes(ratio: str, area: int, factor: int) -> tuple[int, int]:
    """(height, width) in visual codes of an image of about `area` pixels.

    `factor` is the side of one code in pixels. Raises InputError on an invalid ratio or an area
    that is smaller than one code or larger than `MAX_AREA`.
    """
    width, height = parse_ratio(ratio)
    if not 0 < area <= MAX_AREA:
        raise InputError(f"area {area}: must be from 1 to {MAX_AREA} pixels")
    scale = math.sqrt(area / (height * width))
    size = round(height * scale / factor), round(width * scale / factor)
    if min(size) < 1:
        raise InputError(
            f"area {area} with ratio {ratio}: smaller than one code of {factor}x{factor} pixels; "
            "use a larger area"
        )
    return size


def smart_resize(height: int, width: int, config: PreprocessorConfig) -> tuple[int, int]:
    """(height, width) in pixels to which an image is resized for the vision tokenizer.

    Both are multiples of `spatial_factor`, and the area is within `min_pixels` and `max_pixels`.
    Raises InputError on a side shorter than one code or an aspect ratio above 5.
    """
    factor = config.spatial_factor
    if min(height, width) < factor:
        raise InputError(f"image of {width}x{height}: both sides must be at least {factor} pixels")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(
            f"image of {width}x{height}: one side may be at most {MAX_ASPECT} times the other"
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
            f"image of {width}x{height}: too narrow to be resized to at most "
            f"{config.max_pixels} pixels"
        )
    return new_height, new_width


def to_pixels(image: Image.Image, config: PreprocessorConfig) -> Tensor:
    """Resize and normalize an image of any size and mode to pixels [3, H, W] float32."""
    height, width = smart_resize(image.height, image.width, config)
    rgb = image.convert("RGB").resize((width, height), Image.Resampling(config.resample))
    # Rescale in float64 and normalize in float32, as transformers' image processors do.
    scaled = (np.asarray(rgb) * config.rescale_factor).astype(np.float32)
    mean = np.array(config.image_mean, np.float32)
    std = np.array(config.image_std, np.float32)
    return torch.from_numpy((scaled - mean) / std).movedim(-1, 0).contiguous()


def to_array(pixels: Tensor, config: PreprocessorConfig) -> np.ndarray:
    """Pixels [..., 3, H, W] to uint8 [..., H, W, 3], clipped to 0..255.

    Values are truncated, not rounded, as in the published code.
    """
    mean = np.array(config.image_mean, np.float32)
    std = np.array(config.image_std, np.float32)
    values = pixels.detach().float().movedim(-3, -1).cpu().numpy()
    # Inverse normalization with the reference's order of operations, for identical rounding.
    values = (values - (-mean / std)) / (1 / std) / np.float32(config.rescale_factor)
    return values.clip(0, 255).astype(np.uint8)


def to_image(pixels: Tensor, config: PreprocessorConfig) -> Image.Image:
    """Pixels [3, H, W] to an image."""
    return Image.fromarray(to_array(pixels, config))
