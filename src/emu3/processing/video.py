"""Video files to frames and back, one frame at a time.

A frame is an array [H, W, 3] uint8. Times are in seconds, rates in frames per second. MP4, WebM and
other formats of FFmpeg are read with PyAV; GIF and animated WebP with Pillow, which composites
their partial frames. All are written with PyAV, frame by frame.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emu3.errors import InputError, InputWarning, MissingExtraError
from emu3.files import atomic_write, check_writable
from emu3.processing.image import MAX_SOURCE_PIXELS, composite_on_white, to_rgb
from emu3.processing.tone_mapping import HLG, PQ, to_sdr
from emu3.processing.video_report import VideoReport

if TYPE_CHECKING:
    from types import ModuleType

Frame = NDArray[np.uint8]
TimedFrame = tuple[float, float, Frame]  # start and end time in seconds, and the frame

SETTINGS_KEY = "comment"  # metadata key in MP4 and WebM
MAX_FPS = 240
JITTER = 0.01  # seconds by which a timestamp may be late: the resolution of GIF
MAX_INTERVAL = 600  # seconds that one frame may be shown; more comes from damaged timestamps
RATE_PACKETS = 1000  # at the start of a file, whose timestamps must agree with the declared rate
RATE_TOLERANCE = 1.5  # ratio of rates that agree
TS_PACKET = 188  # bytes of an MPEG-TS packet, which starts with TS_SYNC
TS_SYNC = 0x47
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
    """Frames of one size, which can be iterated once, and their rate in frames per second.

    `report` says what is wrong with the file; it is complete after the last frame.
    """

    frames: Iterator[Frame]
    fps: float
    report: VideoReport = field(default_factory=VideoReport)


def open_clip(
    path: Path,
    fps: float | None = None,
    max_frames: int | None = None,
    *,
    container: str | None = None,
    strict: bool = False,
) -> Clip:
    """Open a video file at a constant frame rate; frames are as players show them, on white.

    Frame n is the one shown n / fps seconds after the first, which also resamples variable rates.
    `fps` defaults to the file's average rate, or to the usual rate of its timestamps if these
    contradict it, and to at most 240. Frames are decoded as they are read.
    `container` restricts FFmpeg to one format, by FFmpeg's name; set it for untrusted files, since
    FFmpeg also recognizes playlists, which make it open other files and URLs.
    Raises InputError if the file is missing, not a video or has no frames. Damage further into the
    file is found while frames are read: with `strict` it raises InputError, else what can be
    decoded is returned, and an InputWarning with figures follows the last frame.
    """
    check_fps(fps)
    if max_frames is not None and max_frames < 1:
        raise InputError(f"max_frames = {max_frames} must be at least 1")
    report = VideoReport()
    with _input_errors(path):
        if _is_gif_or_webp(path):
            average, timed = _open_pillow(path)
        else:
            average, timed = _open_av(path, container, report)
        first = next(timed, None)
    if first is None:
        reason = " that can be decoded" if report.errors else ""
        raise InputError(f"{path}: the file has no frames{reason}")
    rate = min(average, MAX_FPS) if fps is None else float(fps)
    if not rate:
        raise InputError(f"{path}: the file has no frame rate; give one")
    timed = _validated(path, chain([first], timed))
    frames = resample(_checked(path, timed, report, strict=strict), rate)
    return Clip(islice(frames, max_frames), rate, report)


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
    except Exception:  # decoders raise anything on a damaged file
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
    except (MissingExtraError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything: struct.error, KeyError, FFmpegError, …
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: not a video, or damaged ({reason})") from None


def _validated(path: Path, timed: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """The same frames, with errors converted and sizes checked against the first frame."""
    shape: tuple[int, ...] = ()
    end = float("inf")
    with _input_errors(path):
        for start, stop, frame in timed:
            shape = shape or frame.shape
            if frame.shape != shape:
                raise InputError(
                    f"{path}: the frame size changes within the file; split the file there"
                )
            if stop - start > MAX_INTERVAL or start - end > MAX_INTERVAL:
                raise InputError(
                    f"{path}: a frame is shown for {max(stop - start, start - end):.0f} seconds, "
                    f"at most {MAX_INTERVAL} are read; its timestamps may be damaged"
                )
            end = stop
            yield start, stop, frame


def _checked(
    path: Path, timed: Iterator[TimedFrame], report: VideoReport, *, strict: bool
) -> Iterator[TimedFrame]:
    """The same frames. Damage raises InputError if `strict`, else an InputWarning at the end."""
    for each in timed:
        if strict and (report.errors or report.corrupt_frames):
            break
        yield each
    problems = "; ".join(report.problems())
    if problems and strict:
        raise InputError(f"{path}: the video is damaged or incomplete: {problems}")
    if problems:
        message = f"{path}: the video is damaged or incomplete: {problems}; read as far as possible"
        warnings.warn(message, InputWarning, stacklevel=2)


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
                np.asarray(to_rgb(opened)) if decode else empty,
            )


def _open_av(
    path: Path, container_format: str | None, report: VideoReport
) -> tuple[float, Iterator[TimedFrame]]:
    """Average rate (0 if unknown) and frames of a file that FFmpeg reads; fills in the report."""
    with _pyav().open(str(path), format=container_format) as container:
        stream = _video_stream(container)
        if stream is None:
            raise InputError(f"{path}: the file has no video stream")
        if stream.codec_context is None:
            raise InputError(f"{path}: the installed FFmpeg has no decoder for this video")
        width = _display_width(stream.width, stream.sample_aspect_ratio)
        if max(width, stream.width) * stream.height > MAX_SOURCE_PIXELS:
            raise InputError(f"{path}: frames are too large; the limit is 100 megapixels")
        rate, declared = _frame_rate(container, stream)
        report.truncated = container.format.name == "mpegts" and _ends_within_ts_packet(path)
    interval = 1 / rate if rate else 0.0
    return rate, _av_frames(path, container_format, interval, report, durations=declared)


def _frame_rate(container: Any, stream: Any) -> tuple[float, bool]:
    """The declared rate and True, or the usual rate of timestamps that contradict it and False.

    The rate is 0 if unknown. Browsers record WebM with timestamps in milliseconds, which FFmpeg
    takes for 1000 frames per second. Reads packets.
    """
    declared = float(stream.average_rate or stream.guessed_rate or 0)
    times = []
    try:
        for packet in islice(container.demux(stream), RATE_PACKETS):
            if packet.pts is not None:
                times.append(float(packet.pts * packet.time_base))
    except Exception:  # counted when frames are read
        pass
    intervals = np.diff(np.unique(times))
    if not len(intervals):
        return declared, True
    usual = np.median(intervals)
    regular = intervals[(intervals > usual / 2) & (intervals < usual * 2)]
    rates = (1 / float(intervals.mean()), 1 / float(regular.mean()))
    agrees = any(1 / RATE_TOLERANCE < declared / rate < RATE_TOLERANCE for rate in rates)
    return (declared, True) if agrees else (rates[1], False)


def _ends_within_ts_packet(path: Path) -> bool:
    """Whether an MPEG-TS file of 188-byte packets has an incomplete last packet."""
    with path.open("rb") as file:
        head = file.read(TS_PACKET + 1)
    packets = len(head) > TS_PACKET and head[0] == head[TS_PACKET] == TS_SYNC
    return packets and path.stat().st_size % TS_PACKET != 0


def _av_frames(
    path: Path,
    container_format: str | None,
    interval: float,
    report: VideoReport,
    *,
    durations: bool,
) -> Iterator[TimedFrame]:
    """Timed frames; missing times and durations are filled in from the average frame interval.

    Without `durations` those of the file, which follow from a wrong rate, are not believed. What
    cannot be decoded is skipped and counted in the report.
    """
    with _pyav().open(str(path), format=container_format) as container:
        stream, stop = _video_stream(container), 0.0
        if stream is None:
            return
        others = _read_declarations(container, stream, report)
        # Matroska declares when the last frame ends; other containers, how long the stream is.
        absolute = "matroska" in container.format.name
        origin = 0.0 if absolute or stream.start_time is None else _time(stream, stream.start_time)
        for frame in _decode(container, stream, others, report):
            start = stop if frame.time is None else float(frame.time)
            units = frame.duration or 0 if durations else 0
            duration = float(units * (frame.time_base or 0))
            stop = start + (duration or interval)
            report.starts.append(start)
            report.durations.append(duration)
            report.corrupt_frames += frame.is_corrupt
            report.read_until = max(report.read_until, stop - origin)
            report.read_until = max(report.read_until, report.others_until - origin)
            yield start, stop, _frame_array(frame, stream)


def _read_declarations(container: Any, stream: Any, report: VideoReport) -> list[Any]:
    """Fill in the declared duration and number of frames of a video stream.

    Returns the streams besides it that the duration includes.
    """
    duration = None
    if stream.duration is not None:
        duration = _time(stream, stream.duration)
    elif "DURATION" in stream.metadata:  # Matroska, as HH:MM:SS.fraction
        duration = _seconds(stream.metadata["DURATION"])
    others = list(container.streams.audio) if duration is None else []
    if container.duration is not None:
        total = container.duration / _pyav().time_base
        duration = total if duration is None else min(duration, total)
    report.declared_duration = duration
    # MP4 counts frames that its edit list may leave out; then the duration is shorter as well.
    frames, rate = stream.frames, float(stream.average_rate or 0)
    if frames and rate and duration and "mp4" in container.format.name:
        whole = abs(frames / rate - duration) <= 0.05 * duration
        report.declared_frames = frames if whole else None
    return others


def _time(stream: Any, timestamp: int) -> float:
    """A timestamp of a stream in seconds."""
    return float(timestamp * stream.time_base)


def _seconds(text: str) -> float | None:
    """HH:MM:SS.fraction in seconds, or None if it is something else."""
    try:
        hours, minutes, seconds = map(float, text.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def _decode(container: Any, stream: Any, others: list[Any], report: VideoReport) -> Iterator[Any]:
    """The frames of a stream. Errors of FFmpeg are counted; one of the container ends the file.

    Of the other streams only the time at which they end is noted.
    """
    packets = container.demux(stream, *others)
    while True:
        try:
            packet = next(packets, None)
        except Exception:  # also an IndexError of PyAV at a stream that the header does not name
            report.errors += 1
            packet = None
        if packet is not None and packet.stream.index != stream.index:
            if packet.pts is not None:
                end = _time(packet.stream, packet.pts + (packet.duration or 0))
                report.others_until = max(report.others_until, end)
            continue
        if packet is not None:
            report.errors += packet.is_corrupt
            report.discarded += packet.is_discard
        try:
            # Without a packet the decoder gives the frames that it has kept back.
            frames = stream.codec_context.decode(packet)
        except EOFError:  # the last packet was an empty one, which has done the same
            frames = []
        except Exception:
            report.errors += 1
            frames = []
        yield from frames
        if packet is None:
            return


def _video_stream(container: Any) -> Any | None:
    """The video stream that players choose: the default one, or the first; None without any.

    Cover art does not count.
    """
    disposition = _pyav().stream.Disposition
    streams = [s for s in container.streams.video if not s.disposition & disposition.attached_pic]
    default = next((s for s in streams if s.disposition & disposition.default), None)
    return default or next(iter(streams), None)


def _display_width(width: int, aspect_ratio: Fraction | None) -> int:
    """The width of a frame in square pixels; `aspect_ratio` is the width of a pixel per height."""
    return max(1, round(width * aspect_ratio)) if aspect_ratio and aspect_ratio > 0 else width


def _frame_array(frame: Any, stream: Any) -> Frame:
    """A decoded frame as players show it: in SDR, in square pixels and upright."""
    transfer = stream.codec_context.color_trc
    if any(component.is_alpha for component in frame.format.components):
        array = composite_on_white(frame.to_ndarray(format="rgba"))
    elif transfer in (PQ, HLG):
        array = to_sdr(frame.to_ndarray(format="rgb48le"), transfer)
    else:
        array = frame.to_ndarray(format="rgb24")
    height, width = array.shape[:2]
    shown = _display_width(width, stream.sample_aspect_ratio)
    if shown != width:
        if shown * height > MAX_SOURCE_PIXELS:
            raise Image.DecompressionBombError
        resized = Image.fromarray(array).resize((shown, height), Image.Resampling.BICUBIC)
        array = np.asarray(resized)
    return np.ascontiguousarray(_apply_display_matrix(array, frame))


def _apply_display_matrix(array: Frame, frame: Any) -> Frame:
    """Turn and mirror an image as its display matrix says, to the nearest quarter turn.

    The matrix a b u c d v x y w of ISO 14496-12 maps x' = a x + c y, y' = b x + d y; y points down.
    """
    kind = _pyav().sidedata.sidedata.Type.DISPLAYMATRIX
    data = next((bytes(each) for each in frame.side_data if each.type == kind), b"")
    if len(data) < 9 * 4:
        return array
    a, b, _, c, d = (int(value) for value in np.frombuffer(data, np.int32, 5))
    if abs(b) + abs(c) > abs(a) + abs(d):
        array, across, down = array.swapaxes(0, 1), c, b
    else:
        across, down = a, d
    return array[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
