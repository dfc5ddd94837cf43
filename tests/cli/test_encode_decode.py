"""`emu3 encode` and `emu3 decode` against `Emu3.encode` and `Emu3.decode`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from emu3.api import Emu3
from emu3.checkpoints.loading import Checkpoint
from emu3.processing.video import open_clip, read_frames, video_writer

Emu3Command = Callable[..., Result]
Refused = Callable[..., str]


def test_image_codes_equal_python_api(
    emu3: Emu3Command, tiny: Path, photo: Path, here: Path, checkpoint: Checkpoint
) -> None:
    options = ("--model", tiny, "--device", "cpu")
    done = emu3("encode", photo, "-o", "codes.npz", *options)
    assert (done.exit_code, done.stdout) == (0, "codes.npz\n"), done.output
    m = Emu3(checkpoint)
    with Image.open(photo) as image:
        codes = m.encode(image)
    with np.load(here / "codes.npz") as file:
        assert file["codes"].dtype == np.int64
        assert np.array_equal(file["codes"], codes.numpy())
        assert str(file["model"]) == str(tiny)

    np.save("codes.npy", codes.numpy().astype(np.uint16))
    back = m.decode(codes)
    assert isinstance(back, Image.Image)
    for name in ("codes.npz", "codes.npy"):
        done = emu3("decode", name, "-o", "back.png", *options)
        assert (done.exit_code, done.stdout) == (0, "back.png\n"), done.output
        with Image.open("back.png") as image:
            assert image.convert("RGB").tobytes() == back.tobytes()


def test_note_on_codes_of_another_model(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    np.savez("codes.npz", codes=np.zeros((2, 3), np.int64), model=np.array("another"))
    done = emu3("decode", "codes.npz", "-o", "back.png", "--model", tiny)
    assert done.exit_code == 0
    assert "encoded by another" in done.stderr


CASES = Path(__file__).parent.parent / "fixtures" / "cases" / "clips"


def test_damaged_video_is_encoded_with_a_warning(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    """One line with figures, before the summary."""
    pytest.importorskip("av")
    clip = CASES / "busy_half.webm"
    done = emu3("encode", clip, "-o", "codes.npz", "--model", tiny, "--fps", 2)
    assert done.exit_code == 0, done.output
    warning, _ = done.stderr.splitlines()
    assert warning.startswith(f"warning: {clip}: ")
    assert "2.5 of 6.0 seconds could be read" in warning


def test_browser_recording_is_decoded_again(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    pytest.importorskip("av")
    recording = CASES / "rec_jitter.webm"
    assert emu3("encode", recording, "-o", "codes.npz", "--model", tiny).exit_code == 0
    done = emu3("decode", "codes.npz", "-o", "back.mp4", "--model", tiny)
    assert done.exit_code == 0, done.output
    opened = open_clip(here / "back.mp4")
    assert opened.fps == pytest.approx(30, rel=0.02)
    assert abs(sum(1 for _ in opened.frames) - 64) <= 1


def write_video(path: Path, count: int = 10, fps: float = 8) -> list[np.ndarray]:
    """Write a video whose frames have different greys."""
    pytest.importorskip("av")
    frames = [np.full((16, 24, 3), 20 * index, np.uint8) for index in range(count)]
    with video_writer(path, fps) as add:
        for frame in frames:
            add(frame)
    return frames


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webp"])
def test_video_round_trip(
    emu3: Emu3Command, tiny: Path, here: Path, checkpoint: Checkpoint, name: str
) -> None:
    """Ten frames are three groups and decode to ten frames at the same rate."""
    write_video(Path(name))
    frames = list(read_frames(Path(name)))
    done = emu3("encode", name, "-o", "codes.npz", "--model", tiny, "--device", "cpu")
    assert (done.exit_code, done.stdout) == (0, "codes.npz\n"), done.output
    groups = list(checkpoint.vision_processor.encode_frames(frames))
    with np.load("codes.npz") as file:
        assert np.array_equal(file["codes"], np.concatenate([g.codes.numpy() for g in groups]))
        assert (float(file["fps"]), int(file["frames"])) == (8, 10)
    done = emu3("decode", "codes.npz", "-o", "back.mp4", "--model", tiny, "--device", "cpu")
    assert (done.exit_code, done.stdout) == (0, "back.mp4\n"), done.output
    back = open_clip(Path("back.mp4"))
    assert (back.fps, len(list(back.frames))) == (8, 10)


def test_encode_resamples_to_fps(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    write_video(Path("clip.mp4"))
    done = emu3("encode", "clip.mp4", "-o", "codes.npz", "--model", tiny, "--fps", 4)
    assert done.exit_code == 0, done.output
    with np.load("codes.npz") as file:
        assert (len(file["codes"]), float(file["fps"]), int(file["frames"])) == (2, 4, 5)


def test_invalid_video_codes_raise(here: Path, tiny: Path, photo: Path, refused: Refused) -> None:
    pytest.importorskip("av")
    codes = np.zeros((2, 3, 4), np.int64)
    np.savez("codes.npz", codes=codes, fps=8, frames=4)
    np.savez("odd.npz", codes=codes, fps=np.zeros(3))
    np.savez("good.npz", codes=codes, fps=8, frames=8)
    options = ("--model", tiny)
    assert "2 groups" in refused("decode", "codes.npz", "-o", "back.mp4", *options)
    assert "fps is not a single finite number" in refused(
        "decode", "odd.npz", "-o", "back.mp4", *options
    )
    assert "must end in" in refused("decode", "good.npz", "-o", "back.png", *options)
    assert "above 0" in refused("decode", "good.npz", "-o", "a.mp4", "--fps", 0, *options)
    assert "no frame rate" in refused("encode", photo, "-o", "c.npz", "--fps", 8, *options)


CODES: dict[str, tuple[Any, str]] = {
    "a video without fps": (np.zeros((2, 3, 4), np.int64), "has no frame rate"),
    "one axis": (np.zeros(4, np.int64), "height by width"),
    "empty": (np.zeros((0, 4), np.int64), "height by width"),
    "floats": (np.zeros((2, 2)), "expected integers"),
    "booleans": (np.zeros((2, 2), bool), "expected integers"),
    "strings": (np.array([["a", "b"]]), "expected integers"),
    "negative": (np.full((2, 2), -1), "integers in 0 to 63"),
    "outside the codebook": (np.full((2, 2), 64), "integers in 0 to 63"),
    "outside any codebook": (np.full((2, 2), 2**64 - 1, np.uint64), "larger than any codebook"),
    "objects": (np.array([[{}]]), "not a readable"),
}


@pytest.mark.parametrize("case", CODES)
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_invalid_codes_raise(
    case: str, kind: str, here: Path, tiny: Path, refused: Refused
) -> None:
    codes, message = CODES[case]
    if kind == "npz":
        np.savez("codes.npz", codes=codes)
    else:
        np.save("codes.npy", codes)
    assert message in refused("decode", f"codes.{kind}", "-o", "back.png", "--model", tiny)


def no_codes(path: Path) -> None:
    np.savez(path, other=np.zeros(3))


def truncated(path: Path) -> None:
    np.savez(path, codes=np.zeros((200, 200), np.int64))
    path.write_bytes(path.read_bytes()[:1000])


def damaged(path: Path) -> None:
    np.savez_compressed(path, codes=np.arange(40000).reshape(200, 200))
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(data)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "a folder": (Path.mkdir, "codes.npz: is a folder"),
    "text": (lambda path: path.write_text("no codes"), "not a readable"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable"),
    "no zip": (lambda path: path.write_bytes(b"PK\x03\x04 and nothing"), "not a readable"),
    "without codes": (no_codes, "no array named codes; the file contains other"),
    "truncated": (truncated, "not a readable"),
    "damaged": (damaged, "not a readable"),
}


@pytest.mark.parametrize("case", FILES)
def test_invalid_files_raise(case: str, here: Path, tiny: Path, refused: Refused) -> None:
    make, message = FILES[case]
    make(here / "codes.npz")
    assert message in refused("decode", "codes.npz", "-o", "back.png", "--model", tiny)
