"""Video files to frames and back, one frame at a time.

A frame is an array [H, W, 3] uint8. Times are in seconds, rates in frames per second. MP4, WebM and
other formats of FFmpeg are read with PyAV; GIF and animated WebP with Pillow, which composites
their partial frames. All are written with PyAV, frame by frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emu3.errors import InputError, MissingExtraError
from emu3.files import atomic_write, check_writable

if TYPE_CHECKING:
    from types import ModuleType

Frame = NDArray[np.uint8]
TimedFrame = tuple[float, float, Frame]  # start and end time in seconds, and the frame

SETTINGS_KEY = "comment"  # metadata key in MP4 and WebM
MAX_FPS = 240
MAX_SOURCE_PIXELS = 100_000_000  # per frame, as for images
JITTER = 0.01  # seconds by which a timestamp may be late: the resolution of GIF
GIF_DEFAULT = 0.1  # seconds of a frame whose duration is 0, as in browsers


@dataclass(frozen=True)
class VideoFormat:
    """How to write a file type: FFmpeg's names and options; sides are padded to `multiple`."""

    container: str
    encoder: str
    pixels: str
    options: dict[str, str]
    muxer: dict[str, str]
    multiple: int = 1


FORMATS = {
    # Players support 4:2:0 chroma only, which for H.264 requires even sides.
    ".mp4": VideoFormat("mp4", "libx264", "yuv420p", {"crf": "18"}, {"movflags": "+faststart"}, 2),
    ".webm": VideoFormat(
        "webm", "libvpx-vp9", "yuv420p", {"crf": "24", "b": "0", "cpu-used": "4"}, {}
    ),
    ".gif": VideoFormat("gif", "gif", "pal8", {}, {}),
    ".webp": VideoFormat("webp", "libwebp_anim", "bgra", {"quality": "90"}, {"loop": "0"}),
}


@dataclass(frozen=True)
class Clip:
    """Frames of one size, which can be iterated once, and their rate in frames per second."""

    frames: Iterator[Frame]
    fps: float


def open_clip(
    path: Path,
    fps: float | None = None,
    max_frames: int | None = None,
    *,
    container: str | None = None,
) -> Clip:
    """Open a video file at a constant frame rate; frames are rotated upright, on white.

    Frame n is the one shown n / fps seconds after the first, which also resamples variable rates.
    `fps` defaults to the file's average rate. Frames are decoded as they are read.
    `container` restricts FFmpeg to one format, by FFmpeg's name; set it for untrusted files, since
    FFmpeg also recognizes playlists, which make it open other files and URLs.
    Raises InputError if the file is missing, not a video, damaged or has no frames; damage further
    into the file is raised while frames are read.
    """
    check_fps(fps)
    if max_frames is not None and max_frames < 1:
        raise InputError(f"max_frames = {max_frames} must be at least 1")
    with _input_errors(path):
        if _is_gif_or_webp(path):
            average, timed = _open_pillow(path)
        else:
            average, timed = _open_av(path, container)
        first = next(timed, None)
    if first is None:
        raise InputError(f"{path}: the file has no frames")
    rate = average if fps is None else float(fps)
    if not rate:
        raise InputError(f"{path}: the file has no frame rate; give one")
    frames = resample(_validated(path, chain([first], timed)), rate)
    return Clip(islice(frames, max_frames), rate)


def read_frames(
    path: Path, fps: float | None = None, max_frames: int | None = None
) -> Iterator[Frame]:
    """The frames of `open_clip`, without the rate."""
    return open_clip(path, fps, max_frames).frames


def is_video(path: Path) -> bool:
    """Whether a file is a video (for `open_clip`) rather than an image.

    A GIF or WebP is a video if it has several frames. An unreadable file is classified by its
    suffix. Raises InputError if the file is missing.
    """
    try:
        with Image.open(path) as opened:
            animated = getattr(opened, "n_frames", 1) > 1 and _is_gif_or_webp(path)
            return animated or opened.format == "MPEG"  # Pillow identifies MPEG but cannot read it
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        return False
    except (OSError, SyntaxError, ValueError, EOFError):
        suffix = path.suffix.lower()
        is_image = Image.registered_extensions().get(suffix, "MPEG") != "MPEG"
        return suffix in FORMATS or (not is_image and _has_video(path))


def resample(timed: Iterable[TimedFrame], fps: float) -> Iterator[Frame]:
    """Timed frames to frames at a constant rate, starting with the first frame.

    Frames are repeated or dropped according to their times. Because containers round timestamps, a
    frame may be late by a quarter of a frame interval, at most 10 ms. Yields at least one frame if
    there is one.
    """
    tolerance, count, begin = min(JITTER, 0.25 / fps), 0, None
    previous, end = None, 0.0
    for start, stop, frame in timed:
        begin = start if begin is None else begin
        while previous is not None and count / fps + tolerance < start - begin:
            yield previous
            count += 1
        previous, end = frame, stop - begin
    while previous is not None and (count == 0 or count / fps + tolerance < end):
        yield previous
        count += 1


def check_fps(fps: float | None) -> None:
    """Raise InputError unless 0 < fps <= 240; None is valid."""
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise InputError(f"{fps} frames per second: the rate must be above 0 and at most {MAX_FPS}")


def check_clip_path(path: Path) -> None:
    """Raise InputError if no video could be written to `path`; call it before long work."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: the name must end in {', '.join(FORMATS)}")
    check_writable(path)
    _pyav()


@contextmanager
def video_writer(
    path: Path, fps: float, settings: dict[str, object] | None = None
) -> Iterator[Callable[[Frame], None]]:
    """Write a video frame by frame: yields a function that appends a frame [H, W, 3] uint8.

    The file appears, complete, when the block ends without an error. H.264 needs even sides, so
    the last row and column are repeated where necessary. `settings` are stored as JSON in the
    comment of MP4 and WebM; FFmpeg's GIF and WebP have no field for it. Raises InputError on an
    invalid path or rate, on no frames, and on frames of another type or of different sizes.
    """
    check_clip_path(path)
    check_fps(fps)
    with atomic_write(path) as temporary:
        writer = _Writer(temporary, fps, settings)
        try:
            yield writer.add
            if writer.count == 0:
                raise InputError(f"{path}: no frames to write")
            writer.finish()
        finally:
            writer.close()


def read_settings(path: Path) -> dict[str, object] | None:
    """The settings that `video_writer` stored in a file, or None."""
    with _input_errors(path), _pyav().open(str(path)) as container:
        metadata = {key.lower(): value for key, value in container.metadata.items()}
        text = metadata.get(SETTINGS_KEY)
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class _Writer:
    """An open output file; the first frame determines the size."""

    def __init__(self, path: Path, fps: float, settings: dict[str, object] | None) -> None:
        self.format = FORMATS[path.suffix.lower()]
        self.rate = Fraction(fps).limit_denominator(1001)  # keeps 24000/1001 exact
        self.av = _pyav()
        self.container = self.av.open(
            str(path), "w", format=self.format.container, options=self.format.muxer
        )
        if settings is not None:
            self.container.metadata[SETTINGS_KEY] = json.dumps(settings, ensure_ascii=False)
        self.stream: Any = None
        self.shape: tuple[int, ...] = ()
        self.count = 0

    def add(self, frame: Frame) -> None:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise InputError(
                f"a frame must be [H, W, 3] uint8, got {list(frame.shape)} {frame.dtype}"
            )
        if self.stream is None:
            self.shape = frame.shape
            self._open_stream(*(side + -side % self.format.multiple for side in frame.shape[:2]))
        if frame.shape != self.shape:
            raise InputError(
                f"frame {self.count} is {frame.shape[1]}x{frame.shape[0]}, "
                f"the first was {self.shape[1]}x{self.shape[0]}"
            )
        av_frame = self._av_frame(frame)
        av_frame.pts, av_frame.time_base = self.count, 1 / self.rate
        self.container.mux(self.stream.encode(av_frame))
        self.count += 1

    def _open_stream(self, height: int, width: int) -> None:
        self.stream = self.container.add_stream(
            self.format.encoder, rate=self.rate, options=self.format.options
        )
        self.stream.width, self.stream.height = width, height
        self.stream.pix_fmt = self.format.pixels

    def _av_frame(self, frame: Frame) -> Any:
        if self.format.pixels == "pal8":  # FFmpeg would use one palette for all frames
            return self.av.VideoFrame.from_ndarray(_quantize_colors(frame), format="pal8")
        if self.format.pixels == "bgra":
            return self.av.VideoFrame.from_ndarray(
                _with_distinct_alpha(frame, self.count), format="rgba"
            )
        rows, columns = (-side % self.format.multiple for side in frame.shape[:2])
        padded = np.pad(frame, ((0, rows), (0, columns), (0, 0)), mode="edge")
        return self.av.VideoFrame.from_ndarray(padded, format="rgb24")

    def finish(self) -> None:
        self.container.mux(self.stream.encode(None))

    def close(self) -> None:
        self.container.close()


def _quantize_colors(frame: Frame) -> tuple[Frame, Frame]:
    """A frame as indices [H, W] into its own palette [256, 4] of ARGB colors."""
    image = Image.fromarray(frame).quantize(256)
    colors = np.frombuffer(bytes(image.getpalette() or []), np.uint8).reshape(-1, 3)
    palette = np.full((256, 4), 255, np.uint8)
    palette[: len(colors), 1:] = colors
    return np.asarray(image), palette


def _with_distinct_alpha(frame: Frame, index: int) -> Frame:
    """RGBA [H, W, 4] that differs from the previous frame in the alpha of one corner (254 or 255).

    libwebp merges equal consecutive frames, which loses the frame rate and turns a static clip into
    a still image.
    """
    opaque = np.full((*frame.shape[:2], 1), 255, np.uint8)
    opaque[0, 0] -= index % 2
    return np.concatenate([frame, opaque], 2)


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video", "reading and writing videos") from error
    return av


@contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """Convert errors of Pillow and FFmpeg about a file to InputError with a one-line message."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give a file") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: frames are too large; the limit is 100 megapixels") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not a video, or damaged ({reason})") from None
    except Exception as error:
        if not isinstance(error, _pyav().error.FFmpegError):
            raise
        raise InputError(f"{path}: not a video, or damaged ({error.strerror})") from None


def _validated(path: Path, timed: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """The same frames, with errors converted and sizes checked against the first frame."""
    shape: tuple[int, ...] = ()
    with _input_errors(path):
        for start, stop, frame in timed:
            shape = shape or frame.shape
            if frame.shape != shape:
                raise InputError(
                    f"{path}: the frame size changes within the file; split the file there"
                )
            yield start, stop, frame


def _is_gif_or_webp(path: Path) -> bool:
    """Whether a file begins with the signature of GIF or WebP."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[:4] == b"GIF8" or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def _has_video(path: Path) -> bool:
    try:
        with _pyav().open(str(path)) as container:
            return _video_stream(container) is not None
    except Exception:  # PyAV is missing or cannot read it; opening it as an image gives the reason
        return False


def _open_pillow(path: Path) -> tuple[float, Iterator[TimedFrame]]:
    """Average rate and frames of a GIF or WebP. Reads it twice: durations are stored per frame."""
    with Image.open(path) as opened:
        if opened.width * opened.height > MAX_SOURCE_PIXELS:
            raise InputError(f"{path}: frames are too large; the limit is 100 megapixels")
    durations = [stop - start for start, stop, _ in _pillow_frames(path, decode=False)]
    return len(durations) / sum(durations), _pillow_frames(path)


def _pillow_frames(path: Path, *, decode: bool = True) -> Iterator[TimedFrame]:
    empty = np.empty((0, 0, 3), np.uint8)
    with Image.open(path) as opened:
        time = 0.0
        for index in range(getattr(opened, "n_frames", 1)):
            opened.seek(index)
            opened.load()  # WebP durations are known only after loading the frame
            start, time = time, time + (opened.info.get("duration", 0) / 1000 or GIF_DEFAULT)
            yield (
                start,
                time,
                composite_on_white(np.asarray(opened.convert("RGBA"))) if decode else empty,
            )


def _open_av(path: Path, container_format: str | None) -> tuple[float, Iterator[TimedFrame]]:
    """Average rate (0 if unknown) and frames of a file that FFmpeg reads."""
    with _pyav().open(str(path), format=container_format) as container:
        stream = _video_stream(container)
        if stream is None:
            raise InputError(f"{path}: the file has no video stream")
        if stream.codec_context is None:
            raise InputError(f"{path}: the installed FFmpeg has no decoder for this video")
        if stream.width * stream.height > MAX_SOURCE_PIXELS:
            raise InputError(f"{path}: frames are too large; the limit is 100 megapixels")
        rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate, _av_frames(path, container_format, 1 / rate if rate else 0.0)


def _av_frames(path: Path, container_format: str | None, interval: float) -> Iterator[TimedFrame]:
    """Timed frames; missing times and durations are filled in from the average frame interval."""
    with _pyav().open(str(path), format=container_format) as container:
        stream, stop = _video_stream(container), 0.0
        for frame in container.decode(stream):
            start = stop if frame.time is None else float(frame.time)
            duration = float((frame.duration or 0) * (frame.time_base or 0))
            stop = start + (duration or interval)
            yield start, stop, _frame_array(frame)


def _video_stream(container: Any) -> Any | None:
    """The first video stream that is not cover art, or None."""
    cover_art = _pyav().stream.Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & cover_art), None)


def _frame_array(frame: Any) -> Frame:
    """A decoded frame as an array, rotated as its metadata says."""
    if any(component.is_alpha for component in frame.format.components):
        array = composite_on_white(frame.to_ndarray(format="rgba"))
    else:
        array = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(array, round(frame.rotation / 90)))


def composite_on_white(rgba: NDArray[np.uint8]) -> Frame:
    """RGBA [H, W, 4] composited on a white background: [H, W, 3]."""
    alpha = rgba[..., 3:].astype(np.uint32)
    composite = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return composite.astype(np.uint8)
