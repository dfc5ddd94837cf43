"""`emu3 encode` and `emu3 decode`: the pipeline's codes, in files."""

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


def test_there_and_back_as_the_pipeline_does(
    emu3: Emu3Command, tiny: Path, photo: Path, here: Path, checkpoint: Checkpoint
) -> None:
    options = ("--model", tiny, "--device", "cpu")
    done = emu3("encode", photo, "-o", "codes.npz", *options)
    assert (done.exit_code, done.stdout) == (0, "codes.npz\n"), done.output
    m = Emu3(checkpoint)
    with Image.open(photo) as picture:
        codes = m.encode(picture)
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
        with Image.open("back.png") as picture:
            assert picture.convert("RGB").tobytes() == back.tobytes()


def test_codes_of_another_model_are_noted(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    np.savez("codes.npz", codes=np.zeros((2, 3), np.int64), model=np.array("another"))
    done = emu3("decode", "codes.npz", "-o", "back.png", "--model", tiny)
    assert done.exit_code == 0
    assert "made by another" in done.stderr


def moving(path: Path, count: int = 10, fps: float = 8) -> list[np.ndarray]:
    """A clip file of so many frames, each of its own grey."""
    pytest.importorskip("av")
    frames = [np.full((16, 24, 3), 20 * index, np.uint8) for index in range(count)]
    with video_writer(path, fps) as add:
        for frame in frames:
            add(frame)
    return frames


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webp"])
def test_a_clip_there_and_back(
    emu3: Emu3Command, tiny: Path, here: Path, checkpoint: Checkpoint, name: str
) -> None:
    """Ten frames are three groups and come back as ten, at the rate asked for."""
    moving(Path(name))
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


def test_a_clip_is_resampled_to_the_rate_asked_for(
    emu3: Emu3Command, tiny: Path, here: Path
) -> None:
    moving(Path("clip.mp4"))
    done = emu3("encode", "clip.mp4", "-o", "codes.npz", "--model", tiny, "--fps", 4)
    assert done.exit_code == 0, done.output
    with np.load("codes.npz") as file:
        assert (len(file["codes"]), float(file["fps"]), int(file["frames"])) == (2, 4, 5)


def test_what_clips_cannot_be(here: Path, tiny: Path, photo: Path, refused: Refused) -> None:
    pytest.importorskip("av")
    codes = np.zeros((2, 3, 4), np.int64)
    np.savez("codes.npz", codes=codes, fps=8, frames=4)
    np.savez("odd.npz", codes=codes, fps=np.zeros(3))
    np.savez("good.npz", codes=codes, fps=8, frames=8)
    options = ("--model", tiny)
    assert "2 groups" in refused("decode", "codes.npz", "-o", "back.mp4", *options)
    assert "fps is not one" in refused("decode", "odd.npz", "-o", "back.mp4", *options)
    assert "end the name" in refused("decode", "good.npz", "-o", "back.png", *options)
    assert "more than 0" in refused("decode", "good.npz", "-o", "a.mp4", "--fps", 0, *options)
    assert "no frame rate" in refused("encode", photo, "-o", "c.npz", "--fps", 8, *options)


CODES: dict[str, tuple[Any, str]] = {
    "a clip without a rate": (np.zeros((2, 3, 4), np.int64), "does not say its frame rate"),
    "a row": (np.zeros(4, np.int64), "height by width"),
    "none": (np.zeros((0, 4), np.int64), "height by width"),
    "fractions": (np.zeros((2, 2)), "expected integers"),
    "truths": (np.zeros((2, 2), bool), "expected integers"),
    "words": (np.array([["a", "b"]]), "expected integers"),
    "below zero": (np.full((2, 2), -1), "integers in 0 to 63"),
    "beyond the codebook": (np.full((2, 2), 64), "integers in 0 to 63"),
    "beyond any codebook": (np.full((2, 2), 2**64 - 1, np.uint64), "no codebook"),
    "objects": (np.array([[{}]]), "not a readable"),
}


@pytest.mark.parametrize("case", CODES)
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_what_is_no_picture_in_codes(
    case: str, kind: str, here: Path, tiny: Path, refused: Refused
) -> None:
    codes, says = CODES[case]
    if kind == "npz":
        np.savez("codes.npz", codes=codes)
    else:
        np.save("codes.npy", codes)
    assert says in refused("decode", f"codes.{kind}", "-o", "back.png", "--model", tiny)


def no_codes(path: Path) -> None:
    np.savez(path, other=np.zeros(3))


def half(path: Path) -> None:
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
    "without codes": (no_codes, "no array named codes in it, but other"),
    "cut short": (half, "not a readable"),
    "damaged": (damaged, "not a readable"),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_no_file_of_codes(case: str, here: Path, tiny: Path, refused: Refused) -> None:
    make, says = FILES[case]
    make(here / "codes.npz")
    assert says in refused("decode", "codes.npz", "-o", "back.png", "--model", tiny)
