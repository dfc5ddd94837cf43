"""Clips: files to frames and back, one frame at a time.

A frame is an array [H, W, 3] uint8. Times are seconds, rates frames a second. MP4, WebM and
whatever else FFmpeg knows are read through PyAV; GIF and animated WebP through Pillow, which knows
how their frames lie over each other. All are written through PyAV, which needs no list of frames.
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
TimedFrame = tuple[float, float, Frame]  # when it appears, when it goes, and what is seen

SETTINGS_KEY = "comment"  # what both containers that hold text call it
MAX_FPS = 240
MAX_SOURCE_PIXELS = 100_000_000  # of one frame, as for pictures
JITTER = 0.01  # seconds that a timestamp may be late: the grain of GIF
GIF_DEFAULT = 0.1  # seconds of a frame that says 0, as browsers have it


@dataclass(frozen=True)
class Format:
    """How a kind of file is written: FFmpeg's names, and what the sides must be multiples of."""

    container: str
    encoder: str
    pixels: str
    options: dict[str, str]
    muxer: dict[str, str]
    multiple: int = 1


FORMATS = {
    # Players know no other chroma than 4:2:0, and in H.264 that means even sides.
    ".mp4": Format("mp4", "libx264", "yuv420p", {"crf": "18"}, {"movflags": "+faststart"}, 2),
    ".webm": Format("webm", "libvpx-vp9", "yuv420p", {"crf": "24", "b": "0", "cpu-used": "4"}, {}),
    ".gif": Format("gif", "gif", "pal8", {}, {}),
    ".webp": Format("webp", "libwebp_anim", "bgra", {"quality": "90"}, {"loop": "0"}),
}


@dataclass(frozen=True)
class Clip:
    """Frames that can be walked through once, all of one size, and their rate."""

    frames: Iterator[Frame]
    fps: float


def open_clip(
    path: Path,
    fps: float | None = None,
    max_frames: int | None = None,
    *,
    container: str | None = None,
) -> Clip:
    """Open a video file; its frames come upright, on white, and at one steady rate.

    Frame n is what is seen n / fps seconds after the first one, so that variable rates come out
    right. Without `fps` it is the file's average rate. Only the frame at hand is held in memory.
    `container` is the only kind that FFmpeg may take the file for, by FFmpeg's name: left alone, it
    also finds playlists, which have it open other files and addresses.
    Raises InputError when the file is missing, no video, broken or without frames, here or, for
    what lies deeper in it, while the frames are read.
    """
    check_fps(fps)
    if max_frames is not None and max_frames < 1:
        raise InputError(f"max_frames = {max_frames} must be at least 1")
    with _explained(path):
        kind = _magic(path)
        average, timed = _open_pillow(path) if kind else _open_av(path, container)
        first = next(timed, None)
    if first is None:
        raise InputError(f"{path}: no frames in it")
    rate = average if fps is None else float(fps)
    if not rate:
        raise InputError(f"{path}: does not say its frame rate; give one")
    frames = resample(_checked(path, chain([first], timed)), rate)
    return Clip(islice(frames, max_frames), rate)


def read_frames(
    path: Path, fps: float | None = None, max_frames: int | None = None
) -> Iterator[Frame]:
    """The frames of `open_clip`, where the rate is known or does not matter."""
    return open_clip(path, fps, max_frames).frames


def is_video(path: Path) -> bool:
    """Whether a file is for `open_clip`; what is broken goes by its name.

    A GIF or WebP is one if it moves. Raises InputError when there is no such file.
    """
    try:
        with Image.open(path) as opened:
            moves = getattr(opened, "n_frames", 1) > 1 and _magic(path)
            return moves or opened.format == "MPEG"  # which Pillow knows by name only
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        return False
    except (OSError, SyntaxError, ValueError, EOFError):
        suffix = path.suffix.lower()
        picture = Image.registered_extensions().get(suffix, "MPEG") != "MPEG"
        return suffix in FORMATS or (not picture and _has_video(path))


def resample(timed: Iterable[TimedFrame], fps: float) -> Iterator[Frame]:
    """Frames with times to frames at a steady rate, counted from the first.

    A frame is repeated, or left out, as its time asks. It may be late by a quarter of a step, 10
    ms at most, because containers round their times. At least one frame comes out of one.
    """
    late, shown, begin = min(JITTER, 0.25 / fps), 0, None
    before, end = None, 0.0
    for start, stop, frame in timed:
        begin = start if begin is None else begin
        while before is not None and shown / fps + late < start - begin:
            yield before
            shown += 1
        before, end = frame, stop - begin
    while before is not None and (shown == 0 or shown / fps + late < end):
        yield before
        shown += 1


def check_fps(fps: float | None) -> None:
    """Raise InputError on a rate that no clip has."""
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise InputError(f"{fps} frames a second: expected more than 0 and at most {MAX_FPS}")


def check_clip_path(path: Path) -> None:
    """Raise InputError when no clip could be written there: before the work, not after."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: end the name in {', '.join(FORMATS)}")
    check_writable(path)
    _pyav()


@contextmanager
def video_writer(
    path: Path, fps: float, settings: dict[str, object] | None = None
) -> Iterator[Callable[[Frame], None]]:
    """Write a clip frame by frame: hands out a function that takes the next one.

    The file appears, whole, when the block is left without an error. H.264 needs even sides: the
    last row and column are repeated. `settings` are kept in MP4 and WebM as JSON in the comment;
    GIF and WebP as FFmpeg writes them have no place. Raises InputError on a path or rate that
    cannot be, on no frames at all, and on frames that are no [H, W, 3] uint8 of one size.
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
    """What `video_writer` was told of a clip, or None where the file does not say."""
    with _explained(path), _pyav().open(str(path)) as container:
        text = {key.lower(): said for key, said in container.metadata.items()}.get(SETTINGS_KEY)
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class _Writer:
    """One open file; the size of the first frame decides that of the clip."""

    def __init__(self, path: Path, fps: float, settings: dict[str, object] | None) -> None:
        self.kind = FORMATS[path.suffix.lower()]
        self.rate = Fraction(fps).limit_denominator(1001)  # 24000/1001 stays what it is
        self.av = _pyav()
        self.container = self.av.open(
            str(path), "w", format=self.kind.container, options=self.kind.muxer
        )
        if settings is not None:
            self.container.metadata[SETTINGS_KEY] = json.dumps(settings, ensure_ascii=False)
        self.stream: Any = None
        self.shape: tuple[int, ...] = ()
        self.count = 0

    def add(self, frame: Frame) -> None:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise InputError(f"a frame is [H, W, 3] uint8, not {list(frame.shape)} {frame.dtype}")
        if self.stream is None:
            self.shape = frame.shape
            self._begin(*(side + -side % self.kind.multiple for side in frame.shape[:2]))
        if frame.shape != self.shape:
            raise InputError(
                f"frame {self.count} is {frame.shape[1]}x{frame.shape[0]}, "
                f"the first was {self.shape[1]}x{self.shape[0]}"
            )
        picture = self._picture(frame)
        picture.pts, picture.time_base = self.count, 1 / self.rate
        self.container.mux(self.stream.encode(picture))
        self.count += 1

    def _begin(self, height: int, width: int) -> None:
        self.stream = self.container.add_stream(
            self.kind.encoder, rate=self.rate, options=self.kind.options
        )
        self.stream.width, self.stream.height = width, height
        self.stream.pix_fmt = self.kind.pixels

    def _picture(self, frame: Frame) -> Any:
        if self.kind.pixels == "pal8":  # FFmpeg alone would choose the same 256 colours for all
            return self.av.VideoFrame.from_ndarray(_paletted(frame), format="pal8")
        if self.kind.pixels == "bgra":
            return self.av.VideoFrame.from_ndarray(_told_apart(frame, self.count), format="rgba")
        rows, columns = (-side % self.kind.multiple for side in frame.shape[:2])
        padded = np.pad(frame, ((0, rows), (0, columns), (0, 0)), mode="edge")
        return self.av.VideoFrame.from_ndarray(padded, format="rgb24")

    def finish(self) -> None:
        self.container.mux(self.stream.encode(None))

    def close(self) -> None:
        self.container.close()


def _paletted(frame: Frame) -> tuple[Frame, Frame]:
    """A frame as indices [H, W] into its own palette, 256 colours [256, 4] as ARGB."""
    picture = Image.fromarray(frame).quantize(256)
    colours = np.frombuffer(bytes(picture.getpalette() or []), np.uint8).reshape(-1, 3)
    palette = np.full((256, 4), 255, np.uint8)
    palette[: len(colours), 1:] = colours
    return np.asarray(picture), palette


def _told_apart(frame: Frame, index: int) -> Frame:
    """RGBA [H, W, 4] that differs from the frame before, if only by a corner's alpha of 254.

    libwebp makes one frame of those that look alike, however long, and the rate is lost; of a clip
    in which nothing moves it makes a picture.
    """
    opaque = np.full((*frame.shape[:2], 1), 255, np.uint8)
    opaque[0, 0] -= index % 2
    return np.concatenate([frame, opaque], 2)


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video", "reading and writing clips") from error
    return av


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what Pillow and FFmpeg raise about a file into one line."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name a file") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: too large; at most 100 megapixels a frame") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not a video, broken or cut short ({reason})") from None
    except Exception as error:
        if not isinstance(error, _pyav().error.FFmpegError):
            raise
        raise InputError(f"{path}: not a video, broken or cut short ({error.strerror})") from None


def _checked(path: Path, timed: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """The same frames, with errors explained and all of the size of the first."""
    shape: tuple[int, ...] = ()
    with _explained(path):
        for start, stop, frame in timed:
            shape = shape or frame.shape
            if frame.shape != shape:
                raise InputError(f"{path}: its frames change their size; cut it there first")
            yield start, stop, frame


def _magic(path: Path) -> bool:
    """Whether a file begins as GIF or WebP do, whatever its name says."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[:4] == b"GIF8" or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def _has_video(path: Path) -> bool:
    try:
        with _pyav().open(str(path)) as container:
            return _video_stream(container) is not None
    except Exception:  # no FFmpeg, or none of its files: whoever opens it as a picture says why
        return False


def _open_pillow(path: Path) -> tuple[float, Iterator[TimedFrame]]:
    """Average rate and frames of a GIF or WebP, which are read twice: its times lie among them."""
    with Image.open(path) as opened:
        if opened.width * opened.height > MAX_SOURCE_PIXELS:
            raise InputError(f"{path}: too large; at most 100 megapixels a frame")
    lengths = [stop - start for start, stop, _ in _pillow_frames(path, decode=False)]
    return len(lengths) / sum(lengths), _pillow_frames(path)


def _pillow_frames(path: Path, *, decode: bool = True) -> Iterator[TimedFrame]:
    nothing = np.empty((0, 0, 3), np.uint8)
    with Image.open(path) as opened:
        time = 0.0
        for index in range(getattr(opened, "n_frames", 1)):
            opened.seek(index)
            opened.load()  # WebP knows the time of a frame once it is loaded
            start, time = time, time + (opened.info.get("duration", 0) / 1000 or GIF_DEFAULT)
            yield (
                start,
                time,
                composite_on_white(np.asarray(opened.convert("RGBA"))) if decode else nothing,
            )


def _open_av(path: Path, kind: str | None) -> tuple[float, Iterator[TimedFrame]]:
    """Average rate, 0 where it is unknown, and frames of a file that FFmpeg reads."""
    with _pyav().open(str(path), format=kind) as container:
        stream = _video_stream(container)
        if stream is None:
            raise InputError(f"{path}: no video in it")
        if stream.codec_context is None:
            raise InputError(f"{path}: FFmpeg here cannot read this kind of video")
        if stream.width * stream.height > MAX_SOURCE_PIXELS:
            raise InputError(f"{path}: too large; at most 100 megapixels a frame")
        rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate, _av_frames(path, kind, 1 / rate if rate else 0.0)


def _av_frames(path: Path, kind: str | None, step: float) -> Iterator[TimedFrame]:
    """Frames with their times; one without a time, or a length, takes the average step."""
    with _pyav().open(str(path), format=kind) as container:
        stream, stop = _video_stream(container), 0.0
        for frame in container.decode(stream):
            start = stop if frame.time is None else float(frame.time)
            lasts = float((frame.duration or 0) * (frame.time_base or 0))
            stop = start + (lasts or step)
            yield start, stop, _upright(frame)


def _video_stream(container: Any) -> Any | None:
    """The first stream of video; the cover of a song is none."""
    cover = _pyav().stream.Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & cover), None)


def _upright(frame: Any) -> Frame:
    """A decoded frame as an array, turned as its file says."""
    if any(part.is_alpha for part in frame.format.components):
        array = composite_on_white(frame.to_ndarray(format="rgba"))
    else:
        array = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(array, round(frame.rotation / 90)))


def composite_on_white(rgba: NDArray[np.uint8]) -> Frame:
    """RGBA [H, W, 4] laid on white: [H, W, 3]."""
    alpha = rgba[..., 3:].astype(np.uint32)
    laid = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return laid.astype(np.uint8)
