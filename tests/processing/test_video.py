"""Writing and reading video files, frame rates, and invalid files."""

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
from emu3.processing.image import composite_on_white
from emu3.processing.video import (
    FORMATS,
    Frame,
    check_clip_path,
    is_video,
    open_clip,
    read_frames,
    read_settings,
    resample,
    video_writer,
)

av = pytest.importorskip("av")


def clip(count: int, height: int = 18, width: int = 24) -> list[Frame]:
    """Smooth frames, each brighter than the previous one and darker on the left."""
    row = np.arange(width) * 3
    grey = [np.broadcast_to(row + 12 * n, (height, width)) for n in range(count)]
    return [np.stack([each, each // 2, each * 0 + 40], -1).astype(np.uint8) for each in grey]


def write(path: Path, frames: Iterable[Frame], fps: float = 8) -> Path:
    with video_writer(path, fps) as add:
        for frame in frames:
            add(frame)
    return path


def max_difference(ours: list[Frame], theirs: list[Frame]) -> float:
    assert len(ours) == len(theirs)
    return max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("fps", [8, 12, 24000 / 1001])
def test_written_videos_are_read_back(tmp_path: Path, suffix: str, fps: float) -> None:
    """Every frame once and in order, at the file's rate and at the requested one."""
    frames = clip(10)
    path = write(tmp_path / f"clip{suffix}", frames, fps)
    found = open_clip(path)
    assert found.fps == pytest.approx(fps, rel=0.01)
    assert (
        max_difference(list(found.frames), frames) < 4
    )  # neighbours are 12 apart in red, 6 in green
    assert max_difference(list(read_frames(path, fps)), frames) < 4
    assert is_video(path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_odd_sides_are_kept_or_padded(tmp_path: Path, suffix: str) -> None:
    frames = clip(3, 17, 23)
    found = list(read_frames(write(tmp_path / f"clip{suffix}", frames)))
    sides = (18, 24, 3) if suffix == ".mp4" else (17, 23, 3)
    assert {frame.shape for frame in found} == {sides}
    assert max_difference([frame[:17, :23] for frame in found], frames) < 4


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_settings_round_trip(tmp_path: Path, suffix: str) -> None:
    settings: dict[str, object] = {"prompt": "a “red” cär", "seed": 3}
    path = tmp_path / f"clip{suffix}"
    with video_writer(path, 8, settings) as add:
        add(clip(1)[0])
    assert read_settings(path) == settings
    assert read_settings(write(path, clip(1))) is None


def test_max_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", clip(6))
    assert [len(list(read_frames(path, max_frames=n))) for n in (1, 4, 99)] == [1, 4, 6]


def test_resampling_to_another_rate(tmp_path: Path) -> None:
    path, frames = write(tmp_path / "clip.mp4", clip(8), 8), clip(8)
    assert max_difference(list(read_frames(path, 4)), frames[::2]) < 4
    assert (
        max_difference(list(read_frames(path, 16)), [each for each in frames for _ in range(2)]) < 4
    )


def test_variable_rate_gif_is_resampled(tmp_path: Path) -> None:
    """Frames shown for 0.1, 0.3 and 0.2 seconds."""
    frames, path = clip(3), tmp_path / "clip.gif"
    first, *rest = [Image.fromarray(frame).quantize(256) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=[100, 300, 200])
    shown = [frames[n] for n in (0, 1, 1, 1, 2, 2)]
    assert max_difference(list(read_frames(path, 10)), shown) < 4


@pytest.mark.parametrize(("suffix", "encoder"), [(".mp4", "libx264"), (".webm", "libvpx-vp9")])
def test_variable_rate_video_is_resampled(tmp_path: Path, suffix: str, encoder: str) -> None:
    frames, path = clip(4), tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=10, options={"crf": "10", "b": "0"})
        stream.width, stream.height, stream.pix_fmt = 24, 18, "yuv420p"
        for frame, pts in zip(frames, (0, 1, 4, 6), strict=True):
            av_frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
            av_frame.pts, av_frame.time_base = pts, Fraction(1, 10)
            container.mux(stream.encode(av_frame))
        container.mux(stream.encode(None))
    found = list(read_frames(path, 10))
    assert max_difference(found[:7], [frames[n] for n in (0, 1, 1, 1, 2, 2, 3)]) < 4


def solid(number: int) -> Frame:
    return np.full((1, 1, 3), number, np.uint8)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.sampled_from([5, 10, 20, 25, 50]))
def test_resample_matches_reference(lengths: list[int], fps: int) -> None:
    """Reference: for each n, search the last frame that starts by n / fps."""
    # Hundredths of a second plus an offset, so that no start coincides with a frame time.
    starts = [sum(lengths[:k]) / 100 + 0.0007 * k for k in range(len(lengths) + 1)]
    late = min(0.01, 0.25 / fps)
    expected, n = [0], 1
    while n / fps + late < starts[-1]:
        expected.append(max(k for k in range(len(lengths)) if starts[k] <= n / fps + late))
        n += 1
    timed = [(3 + starts[k], 3 + starts[k + 1], solid(k)) for k in range(len(lengths))]
    assert [int(frame[0, 0, 0]) for frame in resample(timed, fps)][1:] == expected[1:]


def test_frames_are_read_lazily() -> None:
    asked = 0

    def source() -> Iterator[tuple[float, float, Frame]]:
        nonlocal asked
        for index in range(100):
            asked += 1
            yield index / 8, (index + 1) / 8, solid(index)

    frames = resample(source(), 8)
    for index in range(5):
        next(frames)
        assert asked <= index + 2


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("moves", [False, True])
def test_static_clips_keep_their_frames(tmp_path: Path, suffix: str, moves: bool) -> None:
    """Equal consecutive frames are not merged, and the rate is kept."""
    frames = [clip(1)[0]] * 8 + (clip(2) if moves else [])
    path = write(tmp_path / f"clip{suffix}", frames)
    assert is_video(path)
    found = open_clip(path)
    assert found.fps == pytest.approx(8, rel=0.01)
    assert max_difference(list(found.frames), frames) < 4


def test_single_frame_video(tmp_path: Path) -> None:
    for suffix in FORMATS:
        assert len(list(read_frames(write(tmp_path / f"clip{suffix}", clip(1))))) == 1


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_transparency_becomes_white(tmp_path: Path, suffix: str) -> None:
    path, clear = tmp_path / f"clip{suffix}", Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    solid = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    clear.save(path, save_all=True, append_images=[solid], duration=100, lossless=True)
    first, second = read_frames(path, 10)
    assert (first == 255).all()
    assert (second == [255, 0, 0]).all()


def test_composite_on_white() -> None:
    rgba = np.array([[[0, 100, 255, 128], [1, 2, 3, 255], [9, 9, 9, 0]]], np.uint8)
    assert composite_on_white(rgba).tolist() == [[[127, 177, 255], [1, 2, 3], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
def test_rotation_metadata_is_applied(
    tmp_path: Path, matrix: tuple[int, int, int, int], turns: int
) -> None:
    """The matrix a b c d of ISO 14496-12: x' = a x + c y, y' = b x + d y, y pointing down."""
    path = write(tmp_path / "clip.mp4", clip(2))
    upright = list(read_frames(path))
    data = bytearray(path.read_bytes())
    a, b, c, d = (each << 16 for each in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    turned = list(read_frames(path))
    assert all(np.array_equal(a, np.rot90(b, turns)) for a, b in zip(turned, upright, strict=True))


def audio_only(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def cover_art(path: Path) -> None:
    """Audio with cover art."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 24, 18, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        container.mux(stream.encode(av.VideoFrame.from_ndarray(clip(1)[0], format="rgb24")))
        container.mux(stream.encode(None))


def truncated(path: Path) -> None:
    data = write(path, clip(10)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


FILES = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "not a video, or damaged"),
    "text": (lambda path: path.write_text("no video\n" * 99), "not a video, or damaged"),
    "audio only": (audio_only, "no video stream"),
    "cover art": (cover_art, "no video stream"),
    "truncated": (truncated, "not a video, or damaged|no frames"),
    "cut GIF": (lambda path: path.write_bytes(b"GIF89a\x01\x00"), "not a video, or damaged"),
}


@pytest.mark.parametrize("case", FILES)
def test_invalid_files_raise(tmp_path: Path, case: str) -> None:
    make, message = FILES[case]
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(InputError, match=message) as raised:
        list(read_frames(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fps", [0, -8, 241, float("nan")])
def test_invalid_rates_raise(tmp_path: Path, fps: float) -> None:
    path = write(tmp_path / "clip.mp4", clip(1))
    with pytest.raises(InputError, match="frames per second"):
        open_clip(path, fps)
    with pytest.raises(InputError, match="frames per second"), video_writer(path, fps):
        pass


def test_is_video(tmp_path: Path) -> None:
    for suffix in (".png", ".gif", ".webp"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"one{suffix}")
        assert not is_video(tmp_path / f"one{suffix}")
    (tmp_path / "text.png").write_text("not an image")  # FFmpeg would trust the suffix
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
def test_writing_is_atomic(tmp_path: Path, suffix: str, case: str) -> None:
    """An existing file is kept, and no temporary file remains."""
    frames, message = BAD[case]
    path = tmp_path / f"clip{suffix}"
    path.write_text("before")
    with pytest.raises(InputError, match=message):
        write(path, frames)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "before"


def test_interrupted_writing_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Frame]:
        yield from clip(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "clip.mp4", interrupted())
    assert list(tmp_path.iterdir()) == []


def test_unknown_suffix_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the name must end in \.mp4"):
        check_clip_path(tmp_path / "clip.avi")
