"""`emu3 encode` and `emu3 decode`: the pipeline's codes, in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from emu3.checkpoint import Checkpoint
from emu3.pipeline import Emu3

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


CODES: dict[str, tuple[Any, str]] = {
    "a clip": (np.zeros((2, 3, 4), np.int64), "only pictures"),
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
