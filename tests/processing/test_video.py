"""Clips as files: there and back in every format, steady rates, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emu3.errors import InputError
from emu3.processing.video import (
    FORMATS,
    Frame,
    check_clip_path,
    composite_on_white,
    is_video,
    open_clip,
    read_frames,
    read_settings,
    resample,
    video_writer,
)

av = pytest.importorskip("av")


def clip(count: int, height: int = 18, width: int = 24) -> list[Frame]:
    """Smooth frames, each brighter than the one before and darker on the left."""
    row = np.arange(width) * 3
    grey = [np.broadcast_to(row + 12 * n, (height, width)) for n in range(count)]
    return [np.stack([each, each // 2, each * 0 + 40], -1).astype(np.uint8) for each in grey]


def write(path: Path, frames: Iterable[Frame], fps: float = 8) -> Path:
    with video_writer(path, fps) as add:
        for frame in frames:
            add(frame)
    return path


def far(ours: list[Frame], theirs: list[Frame]) -> float:
    assert len(ours) == len(theirs)
    return max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("fps", [8, 12, 24000 / 1001])
def test_what_is_written_is_read(tmp_path: Path, suffix: str, fps: float) -> None:
    """Every frame once and in its place, whether the file's own rate or the true one is asked."""
    frames = clip(10)
    path = write(tmp_path / f"clip{suffix}", frames, fps)
    found = open_clip(path)
    assert found.fps == pytest.approx(fps, rel=0.01)
    assert far(list(found.frames), frames) < 4  # neighbours are 12 apart in red, 6 in green
    assert far(list(read_frames(path, fps)), frames) < 4
    assert is_video(path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_odd_sides_are_kept_or_padded_by_their_edge(tmp_path: Path, suffix: str) -> None:
    frames = clip(3, 17, 23)
    found = list(read_frames(write(tmp_path / f"clip{suffix}", frames)))
    sides = (18, 24, 3) if suffix == ".mp4" else (17, 23, 3)
    assert {frame.shape for frame in found} == {sides}
    assert far([frame[:17, :23] for frame in found], frames) < 4


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_settings_come_back(tmp_path: Path, suffix: str) -> None:
    settings: dict[str, object] = {"prompt": "a “red” cär", "seed": 3}
    path = tmp_path / f"clip{suffix}"
    with video_writer(path, 8, settings) as add:
        add(clip(1)[0])
    assert read_settings(path) == settings
    assert read_settings(write(path, clip(1))) is None


def test_max_frames_ends_the_clip(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", clip(6))
    assert [len(list(read_frames(path, max_frames=n))) for n in (1, 4, 99)] == [1, 4, 6]


def test_rates_are_changed_by_time(tmp_path: Path) -> None:
    path, frames = write(tmp_path / "clip.mp4", clip(8), 8), clip(8)
    assert far(list(read_frames(path, 4)), frames[::2]) < 4
    assert far(list(read_frames(path, 16)), [each for each in frames for _ in range(2)]) < 4


def test_a_variable_rate_becomes_steady(tmp_path: Path) -> None:
    """Pictures shown for 1, 3 and 2 tenths of a second."""
    frames, path = clip(3), tmp_path / "clip.gif"
    first, *rest = [Image.fromarray(frame).quantize(256) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=[100, 300, 200])
    shown = [frames[n] for n in (0, 1, 1, 1, 2, 2)]
    assert far(list(read_frames(path, 10)), shown) < 4


@pytest.mark.parametrize(("suffix", "encoder"), [(".mp4", "libx264"), (".webm", "libvpx-vp9")])
def test_a_variable_rate_of_a_video_becomes_steady(
    tmp_path: Path, suffix: str, encoder: str
) -> None:
    frames, path = clip(4), tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=10, options={"crf": "10", "b": "0"})
        stream.width, stream.height, stream.pix_fmt = 24, 18, "yuv420p"
        for frame, pts in zip(frames, (0, 1, 4, 6), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = pts, Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    found = list(read_frames(path, 10))
    assert far(found[:7], [frames[n] for n in (0, 1, 1, 1, 2, 2, 3)]) < 4


def still(number: int) -> Frame:
    return np.full((1, 1, 3), number, np.uint8)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.sampled_from([5, 10, 20, 25, 50]))
def test_frame_n_is_what_is_seen_then(lengths: list[int], fps: int) -> None:
    """Against the slow way: for each n, look for the last frame that has begun by then."""
    # Hundredths of a second, and a little more each time, so that nothing begins on the dot.
    starts = [sum(lengths[:k]) / 100 + 0.0007 * k for k in range(len(lengths) + 1)]
    late = min(0.01, 0.25 / fps)
    expected, n = [0], 1
    while n / fps + late < starts[-1]:
        expected.append(max(k for k in range(len(lengths)) if starts[k] <= n / fps + late))
        n += 1
    timed = [(3 + starts[k], 3 + starts[k + 1], still(k)) for k in range(len(lengths))]
    assert [int(frame[0, 0, 0]) for frame in resample(timed, fps)][1:] == expected[1:]


def test_one_frame_is_read_at_a_time() -> None:
    asked = 0

    def source() -> Iterator[tuple[float, float, Frame]]:
        nonlocal asked
        for index in range(100):
            asked += 1
            yield index / 8, (index + 1) / 8, still(index)

    frames = resample(source(), 8)
    for index in range(5):
        next(frames)
        assert asked <= index + 2


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("moves", [False, True])
def test_what_stands_still_lasts_as_long(tmp_path: Path, suffix: str, moves: bool) -> None:
    """Frames that look alike are as many as were written, and the rate is what it was."""
    frames = [clip(1)[0]] * 8 + (clip(2) if moves else [])
    path = write(tmp_path / f"clip{suffix}", frames)
    assert is_video(path)
    found = open_clip(path)
    assert found.fps == pytest.approx(8, rel=0.01)
    assert far(list(found.frames), frames) < 4


def test_a_clip_of_one_frame_has_one(tmp_path: Path) -> None:
    for suffix in FORMATS:
        assert len(list(read_frames(write(tmp_path / f"clip{suffix}", clip(1))))) == 1


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_alpha_is_laid_on_white(tmp_path: Path, suffix: str) -> None:
    path, clear = tmp_path / f"clip{suffix}", Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    solid = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    clear.save(path, save_all=True, append_images=[solid], duration=100, lossless=True)
    first, second = read_frames(path, 10)
    assert (first == 255).all()
    assert (second == [255, 0, 0]).all()


def test_half_transparent_is_half_white() -> None:
    rgba = np.array([[[0, 100, 255, 128], [1, 2, 3, 255], [9, 9, 9, 0]]], np.uint8)
    assert composite_on_white(rgba).tolist() == [[[127, 177, 255], [1, 2, 3], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
def test_rotation_tags_are_followed(
    tmp_path: Path, matrix: tuple[int, int, int, int], turns: int
) -> None:
    """The matrix a b c d of ISO 14496-12: x' = a x + c y, y' = b x + d y, with y down."""
    path = write(tmp_path / "clip.mp4", clip(2))
    upright = list(read_frames(path))
    data = bytearray(path.read_bytes())
    a, b, c, d = (each << 16 for each in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    turned = list(read_frames(path))
    assert all(np.array_equal(a, np.rot90(b, turns)) for a, b in zip(turned, upright, strict=True))


def sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def song(path: Path) -> None:
    """Sound alone, with a cover."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 24, 18, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        container.mux(stream.encode(av.VideoFrame.from_ndarray(clip(1)[0], format="rgb24")))
        container.mux(stream.encode(None))


def half(path: Path) -> None:
    data = write(path, clip(10)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


FILES = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "not a video, broken"),
    "text": (lambda path: path.write_text("no video\n" * 99), "not a video, broken"),
    "sound": (sound, "no video in it"),
    "song": (song, "no video in it"),
    "half": (half, "not a video, broken|no frames"),
    "cut GIF": (lambda path: path.write_bytes(b"GIF89a\x01\x00"), "not a video, broken"),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_no_clip(tmp_path: Path, case: str) -> None:
    make, says = FILES[case]
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(InputError, match=says) as told:
        list(read_frames(path))
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("fps", [0, -8, 241, float("nan")])
def test_rates_that_no_clip_has(tmp_path: Path, fps: float) -> None:
    path = write(tmp_path / "clip.mp4", clip(1))
    with pytest.raises(InputError, match="frames a second"):
        open_clip(path, fps)
    with pytest.raises(InputError, match="frames a second"), video_writer(path, fps):
        pass


def test_a_picture_is_no_clip(tmp_path: Path) -> None:
    for suffix in (".png", ".gif", ".webp"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"one{suffix}")
        assert not is_video(tmp_path / f"one{suffix}")
    (tmp_path / "text.png").write_text("no picture")  # FFmpeg would believe the name
    assert not is_video(tmp_path / "text.png")
    (tmp_path / "text.mov").write_text("no clip")
    assert not is_video(tmp_path / "text.mov")
    write(tmp_path / "clip.mp4", clip(2)).rename(tmp_path / "clip.mov")
    assert is_video(tmp_path / "clip.mov")
    with pytest.raises(InputError, match="no such file"):
        is_video(tmp_path / "missing.mp4")


BAD: dict[str, tuple[list[Frame], str]] = {
    "none": ([], "no frames"),
    "two sizes": ([*clip(1), *clip(1, 20)], "the first was 24x18"),
    "grey": ([*clip(1), clip(1)[0][..., 0]], "uint8"),
    "fractions": ([*clip(1), clip(1)[0] / 2], "uint8"),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("case", BAD)
def test_a_clip_is_there_whole_or_not_at_all(tmp_path: Path, suffix: str, case: str) -> None:
    """A file that was there stays, and nothing lies beside it."""
    frames, says = BAD[case]
    path = tmp_path / f"clip{suffix}"
    path.write_text("before")
    with pytest.raises(InputError, match=says):
        write(path, frames)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "before"


def test_an_interrupted_clip_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Frame]:
        yield from clip(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "clip.mp4", interrupted())
    assert list(tmp_path.iterdir()) == []


def test_a_clip_needs_a_known_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"end the name in \.mp4"):
        check_clip_path(tmp_path / "clip.avi")
