"""The commands `emu3 quantize` and `emu3 convert`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

Emu3Command = Callable[..., Result]


def test_quantized_checkpoint_generates(emu3: Emu3Command, tiny: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    done = emu3("quantize", str(tiny), "-o", str(few), "--bits", "8")
    assert (done.exit_code, done.stdout.strip()) == (0, str(few))
    assert "decoder in int8" in emu3("info", str(few)).stdout
    picture = tmp_path / "picture.png"
    drawn = emu3("image", "x", "--model", str(few), "-o", str(picture))
    assert drawn.exit_code == 0, drawn.stderr
    assert picture.stat().st_size > 0


@pytest.mark.parametrize("format", ["hf", "paddle", "baai"])
def test_images_are_the_same_in_every_format(
    emu3: Emu3Command, tiny: Path, tmp_path: Path, format: str
) -> None:
    assert emu3("convert", str(tiny), "-o", str(tmp_path / "there"), "--to", format).exit_code == 0
    pictures = []
    for number, model in enumerate((tiny, tmp_path / "there")):
        drawn = tmp_path / f"{number}.png"
        options = ("--model", str(model), "--seed", "0", "-o", str(drawn))
        assert emu3("image", "x", *options).exit_code == 0
        pictures.append(Image.open(drawn).tobytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["quantize", "--bits", "3"], "use 4 or 8"),
        (["quantize", "--bits", "4"], "do not divide into groups of 64"),
        (["quantize", "--bits", "4", "--group-size", "7"], "even number"),
        (["convert", "--to", "onnx"], "unknown checkpoint format"),
        (["convert", "--dtype", "int4"], "emu3 quantize --bits 4"),
        (["convert", "--dtype", "fp64"], "one of fp32"),
    ],
)
def test_invalid_arguments_give_one_line(
    emu3: Emu3Command, tiny: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    command, *rest = arguments
    done = emu3(command, str(tiny), "-o", str(tmp_path / "out"), *rest)
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_nonempty_output_folder_is_refused(emu3: Emu3Command, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    done = emu3("convert", str(tiny), "-o", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "already exists" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
