"""Clips that are sent: from data URLs and files to frames, each as the model will see it.

What a file is called counts for nothing: its first bytes say what it is, and FFmpeg may take it for
nothing else. Left alone it also finds playlists, which name files and addresses.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from emu3.config import PreprocessorConfig
from emu3.errors import InputError
from emu3.inference.requests import VideoInput
from emu3.processing.image import smart_resize
from emu3.processing.video import open_clip
from emu3.server.problems import Problem, bad
from emu3.server.settings import Settings

DATA_URL = re.compile(
    r"data:(video/(mp4|webm|quicktime)|image/(gif|webp))(;codecs=[\w.,\"]{1,60})?;base64,",
    re.IGNORECASE,
)
KINDS = "MP4, WebM, GIF, WebP"
CONTAINERS = {".mp4": "mov", ".webm": "matroska", ".gif": None, ".webp": None}  # FFmpeg's names
UNPACKED = 10**9  # pixels in all frames of a GIF or WebP, which are unpacked twice


@dataclass(frozen=True)
class Screen:
    """How clips are looked at: what the model sees of a frame, and the operator's limits."""

    preprocessor: PreprocessorConfig
    settings: Settings

    def of_data_url(self, url: str, param: str, fps: float | None) -> VideoInput:
        """The clip in a data URL. Raises Problem."""
        match = DATA_URL.match(url)
        if match is None:
            raise bad(param, "expected data:video/mp4;base64,… (or webm; image/gif or webp)")
        try:
            data = base64.b64decode(url[match.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise bad(param, "broken base64") from None
        return self.of_bytes(data, param, fps)

    def of_bytes(self, data: bytes, param: str, fps: float | None) -> VideoInput:
        """The clip in a file's bytes, `fps` frames a second of it or its own rate. Raises Problem.

        Takes time, and a temporary file: FFmpeg reads from nothing else.
        """
        kind = kind_of(data)
        if kind is None:
            raise bad(param, f"not a clip in one of {KINDS}")
        if kind in (".gif", ".webp"):
            self._check_unpacked(data, param)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"clip{kind}"
            path.write_bytes(data)
            try:
                return self._read(path, param, fps)
            except InputError as error:
                raise bad(param, str(error).replace(f"{path}: ", "")) from None

    def _check_unpacked(self, data: bytes, param: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data), formats=("GIF", "WEBP")) as opened:
                    frames = getattr(opened, "n_frames", 1)
                    self._check_frame(opened.width, opened.height, param)
                    if opened.width * opened.height * frames > UNPACKED:
                        raise bad(param, f"more than {UNPACKED} pixels in all of its frames")
        except Image.DecompressionBombError:
            raise bad(param, "too many pixels (limit max_source_pixels)") from None
        except (OSError, SyntaxError, ValueError, EOFError):
            raise bad(param, f"not a clip in one of {KINDS}") from None

    def _check_frame(self, width: int, height: int, param: str) -> None:
        most = self.settings.max_source_pixels
        if width * height > most:
            raise bad(
                param, f"{width * height} pixels a frame, at most {most} (limit max_source_pixels)"
            )

    def _read(self, path: Path, param: str, fps: float | None) -> VideoInput:
        settings, frames, pixels = self.settings, list[Image.Image](), 0
        clip, until = (
            open_clip(path, fps, container=CONTAINERS[path.suffix]),
            time.monotonic() + settings.max_reading,
        )
        for frame in clip.frames:
            self._check_frame(frame.shape[1], frame.shape[0], param)
            frames.append(self.seen(Image.fromarray(frame)))
            pixels += frames[-1].width * frames[-1].height
            if len(frames) > settings.max_frames:
                raise too_many(param, settings)
            if pixels > settings.max_clip_pixels:
                raise bad(
                    param, f"more than {settings.max_clip_pixels} pixels (limit max_clip_pixels)"
                )
            if time.monotonic() > until:
                raise bad(param, f"not read after {settings.max_reading:g} s (limit max_reading)")
        return VideoInput(tuple(frames), clip.fps)

    def seen(self, picture: Image.Image) -> Image.Image:
        """A frame in the size in which the model sees it, so that large ones are not held."""
        height, width = smart_resize(picture.height, picture.width, self.preprocessor)
        return picture.resize((width, height), Image.Resampling(self.preprocessor.resample))


def too_many(param: str | None, settings: Settings) -> Problem:
    """More frames than are allowed."""
    most = settings.max_frames
    said = f"more than {most} frames (limit max_frames); take fewer seconds or a lower fps"
    return bad(param, said)


def kind_of(data: bytes) -> str | None:
    """The suffix that first bytes stand for."""
    if data[4:8] == b"ftyp":
        return ".mp4"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return ".webm"
    if data[:4] == b"GIF8":
        return ".gif"
    return ".webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None
