"""Pictures as text: from data URLs, and to base64."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from pathlib import Path

from PIL import Image

from emu3.errors import InputError
from emu3.processing.image import open_image
from emu3.server.problems import bad
from emu3.server.settings import Settings

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
SENT = ("PNG", "JPEG", "WEBP", "GIF")
DATA_URL = re.compile(r"data:image/(png|jpe?g|webp|gif);base64,", re.IGNORECASE)


def of_data_url(url: str, param: str, settings: Settings) -> Image.Image:
    """The picture in a data URL. Raises Problem."""
    match = DATA_URL.match(url)
    if match is None:
        raise bad(param, "expected data:image/png;base64,… (or jpeg, webp, gif)")
    try:
        data = base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise bad(param, "broken base64") from None
    return of_bytes(data, param, settings)


def of_bytes(data: bytes, param: str, settings: Settings) -> Image.Image:
    """The picture in a file's bytes; its size is looked at before it is unpacked. Raises Problem.

    What the file is called counts for nothing: its first bytes say what it is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=SENT) as opened:
                pixels = opened.width * opened.height
            if pixels > settings.max_source_pixels:
                raise bad(
                    param,
                    f"{pixels} pixels, at most {settings.max_source_pixels} are allowed "
                    "(limit max_source_pixels)",
                )
            return open_image(Path("picture"), data).convert("RGB")
    except Image.DecompressionBombError:
        raise bad(param, "too many pixels (limit max_source_pixels)") from None
    except InputError as error:
        raise bad(param, str(error)) from None
    except (OSError, SyntaxError, ValueError, EOFError):
        raise bad(param, f"not a picture in one of {', '.join(SENT)}") from None


def to_base64(picture: Image.Image, kind: str, quality: int) -> str:
    """A picture as a file of FORMATS, in base64; `quality` counts for jpeg and webp."""
    out = io.BytesIO()
    if kind == "png":
        picture.save(out, format="PNG")
    else:
        picture.save(out, format=FORMATS[kind], quality=quality)
    return base64.b64encode(out.getvalue()).decode("ascii")
