"""Image files and PIL images to pixels and back, and the sizes that images may have.

Source: `image_processing_emu3visionvq.py` and `processing_emu3.py` of baaivision/Emu3.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from emu3.config import PreprocessorConfig
from emu3.errors import InputError

# Pillow warns of what the errors here say, or of metadata that is not used.
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_ASPECT = 5  # longer side over shorter side, of input and output images
MAX_SOURCE_PIXELS = 100_000_000  # of an input file; larger files are refused before decoding
MAX_AREA = 2**31  # of a requested area; the decoder's context length is exceeded long before
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of an EXIF orientation upright."""
DEEP_GREYS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
RATIO = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")


def open_image(path: Path, data: bytes | None = None) -> Image.Image:
    """Read an image file as an upright RGB image; see `to_rgb`. Of several frames, the first.

    With `data`, these bytes are read and `path` only names them in errors. Raises InputError if
    the file is missing, not an image, damaged, or larger than 100 megapixels.
    """
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as opened:
            if opened.width * opened.height > MAX_SOURCE_PIXELS:
                raise InputError(
                    f"{path}: {opened.width}x{opened.height} is too large; "
                    f"the limit is {MAX_SOURCE_PIXELS // 1_000_000} megapixels"
                )
            opened.load()
            turn = ORIENTATIONS.get(_orientation(opened))
            image = to_rgb(opened)
            return image if turn is None else image.transpose(turn)
    except (InputError, MemoryError):
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give a file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: too large; the limit is 100 megapixels") from None
    except Exception as error:  # decoders raise anything: struct.error, KeyError, IndexError, …
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: damaged or truncated ({reason})") from None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read.

    Only this tag is read. `ImageOps.exif_transpose` writes all others again, and fails on any that
    is malformed.
    """
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a malformed EXIF block says nothing about the pixels
        return 1


def to_rgb(image: Image.Image, *, plain: bool = False) -> Image.Image:
    """Convert an image of any mode to RGB: sRGB colours, transparent parts on white.

    Greys of more than 8 bits are scaled to 0..255. An embedded ICC profile that cannot be used is
    ignored. With `plain`, colours and transparency are converted as `Image.convert` does, which
    drops the alpha channel; that is what BAAI's processor does. The result has no metadata.
    """
    if image.mode in DEEP_GREYS:
        image = _deep_grey_to_8_bits(image)
    if plain:
        return _without_metadata(image.convert("RGB"))
    alpha = None
    if image.mode == "La":  # Pillow converts premultiplied grey to this mode only
        image = image.convert("LA")
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
    rgb = _to_srgb(image)
    if alpha is not None:
        rgba = np.dstack([np.asarray(rgb), np.asarray(alpha)])
        rgb = Image.fromarray(composite_on_white(rgba))
    return _without_metadata(rgb)


def composite_on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA [H, W, 4] composited on a white background: [H, W, 3]."""
    alpha = rgba[..., 3:].astype(np.uint32)
    composite = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return composite.astype(np.uint8)


def _without_metadata(image: Image.Image) -> Image.Image:
    image.info = {}  # so that a second conversion changes nothing
    return image


def _deep_grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits or float as 8 bits. `Image.convert` would clip them at 255.

    The type does not tell the range, so the values do: the first of 0..1 (float only), 0..255 (but
    in formats of 16 bits), 0..65535 that holds them, else the smallest to the largest value.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    is_16_bit = image.mode.startswith("I;16") or image.format == "PPM"
    if low >= 0 and image.mode == "F" and high <= 1:
        values = values * 255
    elif low >= 0 and high <= 65535 and (is_16_bit or high > 255):
        values = values / 257
    elif low < 0 or high > 255:
        values = (values - low) * (255 / (high - low or 1.0))
    return Image.fromarray(values.astype(np.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB without alpha, converted by the embedded ICC profile if that is not sRGB itself."""
    profile = image.info.get("icc_profile")
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGBA").convert("RGB")
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), image.mode, "RGB"
        )
        if image.mode == "RGB" and _changes_little(transform):
            return image
        return transform.apply(image)
    except Exception:  # a damaged profile, or one for another colour space
        return image.convert("RGB")


def _changes_little(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform of RGB differs from the identity by rounding only, as sRGB's own does.

    The pixels of a photo that is sRGB already then stay as they are, as in BAAI's processor.
    """
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
    changed = np.asarray(transform.apply(Image.fromarray(cube)))
    return int(np.abs(changed.astype(int) - cube).max()) <= 2


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
    """Resize and normalize an image of any size and mode (see `to_rgb`): [3, H, W] float32."""
    height, width = smart_resize(image.height, image.width, config)
    rgb = to_rgb(image).resize((width, height), Image.Resampling(config.resample))
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
