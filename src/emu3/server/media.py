"""Images and videos in requests and responses: data URLs, files and URLs to pixels, and back.

The type of a file is taken from its first bytes, never from its name or its declared content type.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emu3.config import PreprocessorConfig
from emu3.errors import InputError
from emu3.inference.requests import VideoInput
from emu3.processing.image import open_image, smart_resize
from emu3.processing.video import open_clip, read_frames
from emu3.server.errors import APIError, invalid_request
from emu3.server.settings import Settings
from emu3.server.url_fetch import fetch

OUTPUT_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}  # of the API: Pillow's name
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
IMAGE_DATA_URL = re.compile(r"data:image/(png|jpe?g|webp|gif);base64,", re.IGNORECASE)
LINE_BREAKS = re.compile(r"[ \t\r\n]+")
VIDEO_DATA_URL = re.compile(
    r"data:(video/(mp4|webm|quicktime)|image/(gif|webp))(;codecs=[\w.,\"]{1,60})?;base64,",
    re.IGNORECASE,
)
VIDEO_FORMATS = "MP4, WebM, GIF, WebP"
# FFmpeg's name of each container; it may use no other demuxer. Left to guess, FFmpeg also accepts
# playlists, which name local files and network addresses.
CONTAINERS = {".mp4": "mov", ".webm": "matroska", ".gif": None, ".webp": None}
MAX_UNPACKED = 10**9  # pixels in all frames of a GIF or WebP
SPRITESHEET_SIDE = 4  # frames along each side, at most


def is_data_url(url: str) -> bool:
    """Return whether a URL holds its data itself."""
    return url[:5].lower() == "data:"


def load_image(url: str, param: str, settings: Settings) -> Image.Image:
    """Return the image of a data URL, or of a web address if fetching is enabled.

    Raises APIError.
    """
    if is_data_url(url):
        return decode_image_data_url(url, param, settings)
    return decode_image(fetch(url, param, settings), param, settings)


def decode_image_data_url(url: str, param: str, settings: Settings) -> Image.Image:
    """Return the image in a data URL. Raises APIError."""
    match = IMAGE_DATA_URL.match(url)
    if match is None:
        raise invalid_request(param, "expected data:image/png;base64,… (or jpeg, webp, gif)")
    return decode_image(_decode_base64(url[match.end() :], param), param, settings)


def decode_image(data: bytes, param: str, settings: Settings) -> Image.Image:
    """Return the RGB image in a file's bytes. Its size is checked before it is decompressed.

    Raises APIError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as opened:
                pixels = opened.width * opened.height
            if pixels > settings.max_input_pixels:
                raise invalid_request(
                    param,
                    f"{pixels} pixels, at most {settings.max_input_pixels} are allowed "
                    "(limit max_input_pixels)",
                )
            return open_image(Path("image"), data)
    except Image.DecompressionBombError:
        raise invalid_request(param, "too many pixels (limit max_input_pixels)") from None
    except InputError as error:
        raise invalid_request(param, str(error)) from None
    except APIError:
        raise
    except Exception:  # decoders raise anything on a damaged file
        raise invalid_request(param, f"not an image in one of {', '.join(IMAGE_FORMATS)}") from None


def encode_image_base64(image: Image.Image, output_format: str, quality: int) -> str:
    """Return an image as a file of one of OUTPUT_FORMATS in base64; PNG ignores `quality`."""
    options = {} if output_format == "png" else {"quality": quality}
    data = encode_image(image, OUTPUT_FORMATS[output_format], **options)
    return base64.b64encode(data).decode("ascii")


def encode_image(image: Image.Image, pillow_format: str, **options: int) -> bytes:
    """Return an image as the bytes of a file."""
    out = io.BytesIO()
    image.save(out, format=pillow_format, **options)
    return out.getvalue()


@dataclass(frozen=True)
class VideoDecoder:
    """Decodes videos to frames of the size that the model sees, within the server's limits."""

    preprocessor: PreprocessorConfig
    settings: Settings

    def load(self, url: str, param: str, fps: float | None) -> VideoInput:
        """Return the video of a data URL, or of a web address if fetching is enabled.

        Raises APIError.
        """
        if is_data_url(url):
            return self.decode_data_url(url, param, fps)
        return self.decode(fetch(url, param, self.settings), param, fps)

    def decode_data_url(self, url: str, param: str, fps: float | None) -> VideoInput:
        """Return the video in a data URL. Raises APIError."""
        match = VIDEO_DATA_URL.match(url)
        if match is None:
            raise invalid_request(
                param, "expected data:video/mp4;base64,… (or webm; image/gif or webp)"
            )
        return self.decode(_decode_base64(url[match.end() :], param), param, fps)

    def decode(self, data: bytes, param: str, fps: float | None) -> VideoInput:
        """Return the video in a file's bytes at `fps` frames per second, or at its own rate.

        Blocks, and writes a temporary file, since FFmpeg reads from nothing else. Raises APIError.
        """
        suffix = video_suffix(data)
        if suffix is None:
            raise invalid_request(param, f"not a video in one of {VIDEO_FORMATS}")
        if suffix in (".gif", ".webp"):
            self._check_unpacked(data, param)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"clip{suffix}"
            path.write_bytes(data)
            try:
                return self._read(path, param, fps)
            except InputError as error:
                raise invalid_request(param, str(error).replace(f"{path}: ", "")) from None

    def _check_unpacked(self, data: bytes, param: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data), formats=("GIF", "WEBP")) as opened:
                    frames = getattr(opened, "n_frames", 1)
                    self._check_frame(opened.width, opened.height, param)
                    if opened.width * opened.height * frames > MAX_UNPACKED:
                        raise invalid_request(
                            param, f"more than {MAX_UNPACKED} pixels in all of its frames"
                        )
        except Image.DecompressionBombError:
            raise invalid_request(param, "too many pixels (limit max_input_pixels)") from None
        except APIError:
            raise
        except Exception:  # decoders raise anything on a damaged file
            raise invalid_request(param, f"not a video in one of {VIDEO_FORMATS}") from None

    def _check_frame(self, width: int, height: int, param: str) -> None:
        limit = self.settings.max_input_pixels
        if width * height > limit:
            raise invalid_request(
                param,
                f"{width * height} pixels per frame, at most {limit} are allowed "
                "(limit max_input_pixels)",
            )

    def _read(self, path: Path, param: str, fps: float | None) -> VideoInput:
        frames, pixels = list[Image.Image](), 0
        clip = open_clip(path, fps, container=CONTAINERS[path.suffix], strict=True)
        deadline = time.monotonic() + self.settings.max_decode_seconds
        for frame in clip.frames:
            self._check_frame(frame.shape[1], frame.shape[0], param)
            frames.append(self.resize(Image.fromarray(frame)))
            if frames[-1].size != frames[0].size:
                raise invalid_request(param, "the frames of a video must have one size")
            pixels += frames[-1].width * frames[-1].height
            self._check_video(len(frames), pixels, deadline, param)
        if not frames:
            raise invalid_request(param, "the video has no frames")
        return VideoInput(frames_tensor(frames), clip.fps)

    def _check_video(self, frames: int, pixels: int, deadline: float, param: str) -> None:
        settings = self.settings
        if frames > settings.max_frames:
            raise too_many_frames(param, settings)
        if pixels > settings.max_video_pixels:
            raise invalid_request(
                param,
                f"more than {settings.max_video_pixels} pixels in all frames "
                "(limit max_video_pixels)",
            )
        if time.monotonic() > deadline:
            raise invalid_request(
                param,
                f"not decoded after {settings.max_decode_seconds:g} seconds "
                "(limit max_decode_seconds)",
            )

    def resize(self, frame: Image.Image) -> Image.Image:
        """Return a frame in the size that the model sees, so that large frames are not kept."""
        height, width = smart_resize(frame.height, frame.width, self.preprocessor)
        return frame.resize((width, height), Image.Resampling(self.preprocessor.resample))


def thumbnail(path: Path) -> bytes:
    """Return the first frame of a video as WebP. Raises FileNotFoundError."""
    path.stat()
    return encode_image(Image.fromarray(next(iter(read_frames(path)))), "WEBP", quality=95)


def spritesheet(path: Path) -> bytes:
    """Return up to 4x4 frames, evenly spaced from first to last and row by row, as JPEG.

    Raises FileNotFoundError.
    """
    path.stat()
    count = sum(1 for _ in read_frames(path))
    shown = min(count, SPRITESHEET_SIDE**2)
    wanted = {round(k * (count - 1) / max(1, shown - 1)) for k in range(shown)}
    frames = [Image.fromarray(frame) for at, frame in enumerate(read_frames(path)) if at in wanted]
    columns, (width, height) = math.ceil(math.sqrt(shown)), frames[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(shown / columns) * height))
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        sheet.paste(frame, (column * width, row * height))
    return encode_image(sheet, "JPEG", quality=95)


def frames_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Return images of one size as frames [T, H, W, 3] uint8."""
    return torch.from_numpy(np.stack([np.array(image.convert("RGB")) for image in images]))


def too_many_frames(param: str | None, settings: Settings) -> APIError:
    """Return the error for a video of more than `max_frames` frames."""
    return invalid_request(
        param,
        f"more than {settings.max_frames} frames (limit max_frames); "
        "use fewer seconds or a lower fps",
    )


def video_suffix(data: bytes) -> str | None:
    """Return the file suffix of the container that starts with these bytes."""
    if data[4:8] == b"ftyp":
        return ".mp4"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return ".webm"
    if data[:4] == b"GIF8":
        return ".gif"
    return ".webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _decode_base64(text: str, param: str) -> bytes:
    """Decode base64; line breaks and spaces, which many encoders insert, are accepted."""
    try:
        return base64.b64decode(LINE_BREAKS.sub("", text), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_request(param, "not valid base64") from None
