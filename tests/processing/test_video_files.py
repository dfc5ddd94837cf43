"""Damaged files, wrong frame rates, display matrices, aspect ratios, HDR and several tracks."""

from __future__ import annotations

import random
import struct
import time
import warnings
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from emu3.errors import InputError, InputWarning
from emu3.processing.tone_mapping import HLG, PQ, to_sdr
from emu3.processing.video import MAX_FPS, Frame, open_clip, read_frames, video_writer

av = pytest.importorskip("av")

CASES = Path(__file__).parent.parent / "fixtures" / "cases" / "clips"
DAMAGED = {"busy_half.webm": "2.5 of 6.0 seconds", "busy_noise.webm": "2.5 seconds without frames"}
FORMATS = {
    ".mp4": "libx264",
    ".mkv": "libx264",
    ".webm": "libvpx-vp9",
    ".ts": "libx264",
    ".avi": "mpeg4",
    ".mov": "mpeg4",
}


def noise(count: int, height: int = 64, width: int = 96) -> list[Frame]:
    """Frames of random blocks, which compress badly."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (count, height // 8, width // 8, 3)).astype(np.uint8)
    return list(blocks.repeat(8, 1).repeat(8, 2))


def write(
    path: Path, frames: list[Frame], times: list[int] | None = None, rate: int = 24, audio: int = 0
) -> Path:
    """A file with the format of its suffix; `times` count in 1 / rate, `audio` in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(FORMATS[path.suffix], rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=48000) if audio else None
        for frame, pts in zip(frames, times or range(len(frames)), strict=True):
            av_frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
            av_frame.pts, av_frame.time_base = pts, Fraction(1, rate)
            container.mux(stream.encode(av_frame))
        container.mux(stream.encode(None))
        if sound is not None:
            for n in range(audio * 48000 // 1024):
                silence = np.zeros((1, 1024), np.float32)
                samples = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
                samples.sample_rate, samples.pts = 48000, n * 1024
                container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
    return path


def refused(path: Path) -> bool:
    try:
        list(open_clip(path, strict=True).frames)
    except InputError:
        return True
    return False


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused_or_reported(name: str) -> None:
    with pytest.raises(InputError, match=DAMAGED[name]):
        list(open_clip(CASES / name, strict=True).frames)
    opened = open_clip(CASES / name)
    with pytest.warns(InputWarning, match=DAMAGED[name]) as raised:
        assert list(opened.frames)
    assert len(raised) == 1
    assert "\n" not in str(raised[0].message)
    assert DAMAGED[name] in "; ".join(opened.report.problems())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("damage", ["half", "noise"])
def test_damage_is_found_in_every_format(tmp_path: Path, suffix: str, damage: str) -> None:
    """Half a file, or a file with noise in the middle tenth; the whole file is accepted."""
    path = write(tmp_path / f"clip{suffix}", noise(72))
    assert not refused(path)
    data = bytearray(path.read_bytes())
    middle, length = len(data) // 2, len(data) // 10
    if damage == "half":
        del data[middle:]
    else:
        data[middle : middle + length] = random.Random(0).randbytes(length)
    path.write_bytes(data)
    assert refused(path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".ts"])
def test_whole_files_are_accepted(tmp_path: Path, suffix: str) -> None:
    """A variable rate with pauses of two seconds, and sound that is longer than the frames."""
    steps = random.Random(1).choices([1, 1, 2, 3, 48], k=30)
    times = [sum(steps[:n]) for n in range(30)]
    variable = write(tmp_path / f"variable{suffix}", noise(30), times)
    assert not refused(variable)
    assert not refused(variable)
    if suffix != ".webm":  # which has no AAC
        assert not refused(write(tmp_path / f"sound{suffix}", noise(24), audio=4))


def test_rate_that_timestamps_contradict() -> None:
    opened = open_clip(CASES / "rec_jitter.webm", strict=True)
    frames = list(opened.frames)
    assert opened.fps == pytest.approx(30, rel=0.02)
    assert abs(len(frames) - 64) <= 1


def test_rate_is_one_that_can_be_written(tmp_path: Path) -> None:
    """A file of 480 frames per second is read at the highest rate that is written."""
    opened = open_clip(write(tmp_path / "clip.mp4", noise(48), rate=480))
    with video_writer(tmp_path / "copy.mp4", opened.fps) as add:
        for frame in opened.frames:
            add(frame)
    assert opened.fps == MAX_FPS
    assert len(list(read_frames(tmp_path / "copy.mp4"))) == pytest.approx(24, abs=1)


MATRICES = [
    (a, b, c, d)
    for a, b, c, d in np.ndindex(3, 3, 3, 3)
    if (a != 1) == (d != 1) and (b != 1) == (c != 1) and (a != 1) != (b != 1)
]


@pytest.mark.parametrize("entries", MATRICES)
def test_display_matrices(tmp_path: Path, entries: tuple[int, int, int, int]) -> None:
    """All eight turns and mirrorings: the pixel at x, y is shown at a x + c y, b x + d y."""
    path = tmp_path / "clip.mp4"
    with video_writer(path, 8) as add:
        add(noise(1)[0])
    plain = next(read_frames(path))
    a, b, c, d = (each - 1 for each in entries)
    data = bytearray(path.read_bytes())
    matrix = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *matrix)
    path.write_bytes(data)
    y, x = np.mgrid[: plain.shape[0], : plain.shape[1]]
    columns, rows = a * x + c * y, b * x + d * y
    columns, rows = columns - columns.min(), rows - rows.min()
    expected = np.zeros((rows.max() + 1, columns.max() + 1, 3), np.uint8)
    expected[rows, columns] = plain
    assert len(MATRICES) == 8
    assert np.array_equal(next(read_frames(path)), expected)


@pytest.mark.parametrize(
    ("name", "width", "height"),
    [("sar2.mp4", 96, 64), ("hflip.mp4", 96, 64), ("transpose.mp4", 64, 96)],
)
def test_display_size(name: str, width: int, height: int) -> None:
    """Pixels are square: a width of 48 with pixels twice as wide as high is shown as 96."""
    assert next(read_frames(CASES / name)).shape == (height, width, 3)


def test_hdr_white_is_white() -> None:
    frame = next(read_frames(CASES / "pq.mp4"))
    assert np.percentile(frame, 90) >= 250


@pytest.mark.parametrize(("transfer", "white"), [(PQ, 0.5807), (HLG, 0.75)])
def test_tone_mapping(transfer: int, white: float) -> None:
    """Reference white is white, grey stays grey, and brightness never falls."""
    signal = np.linspace(0, 65535, 500).astype(np.uint16)
    grey = to_sdr(np.stack([signal] * 3, -1)[None], transfer)[0].astype(int)
    assert (np.ptp(grey, axis=-1) <= 1).all()
    assert (np.diff(grey[:, 1]) >= 0).all()
    assert grey[0, 1] == 0
    at_white = to_sdr(np.full((1, 1, 3), white * 65535, np.uint16), transfer)
    assert abs(int(at_white[0, 0, 1]) - 255) <= 1
    # 10 cd/m2 is 4.9 % of the reference white, which is 63 in sRGB.
    if transfer == PQ:
        dark = to_sdr(np.full((1, 1, 3), 0.3022 * 65535, np.uint16), PQ)
        assert abs(int(dark[0, 0, 1]) - 63) <= 2


def test_default_track_is_read(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for default in (False, True):
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            stream.disposition = av.stream.Disposition.default if default else 0
            streams.append(stream)
        for stream, value in zip(streams, (20, 230), strict=True):
            grey = np.full((32, 32, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(stream.encode(None))
    assert next(read_frames(path)).mean() > 200


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir()))
def test_mutated_files(tmp_path: Path, name: str) -> None:
    """Whatever bytes change, a file is read or refused, in bounded time."""
    original, rng = (CASES / name).read_bytes(), random.Random(name)
    path = tmp_path / name
    for _ in range(60):
        data = bytearray(original)
        for _ in range(rng.choice([1, 3, 20])):
            at = rng.randrange(rng.choice([len(data), min(len(data), 800)]))
            data[at] = rng.choice([0, 0xFF, rng.randrange(256)])
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        for strict in (False, True):
            begin = time.monotonic()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", InputWarning)
                    for _ in islice(open_clip(path, strict=strict).frames, 200):
                        pass
            except InputError:
                pass
            assert time.monotonic() - begin < 30
