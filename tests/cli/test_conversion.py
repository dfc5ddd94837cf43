"""The commands `emu3 quantize` and `emu3 convert`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

Emu3Command = Callable[..., Result]


def test_quantized_checkpoint_generates(emu3: Emu3Command, tiny: Path, tmp_path: Path) -> None:
    quantized = tmp_path / "quantized"
    done = emu3("quantize", str(tiny), "-o", str(quantized), "--bits", "8")
    assert (done.exit_code, done.stdout.strip()) == (0, str(quantized))
    assert "decoder in int8" in emu3("info", str(quantized)).stdout
    image = tmp_path / "image.png"
    done = emu3("image", "x", "--model", str(quantized), "-o", str(image))
    assert done.exit_code == 0, done.stderr
    assert image.stat().st_size > 0


@pytest.mark.parametrize("format", ["hf", "paddle", "baai"])
def test_images_are_the_same_in_every_format(
    emu3: Emu3Command, tiny: Path, tmp_path: Path, format: str
) -> None:
    assert emu3("convert", str(tiny), "-o", str(tmp_path / "there"), "--to", format).exit_code == 0
    images = []
    for number, model in enumerate((tiny, tmp_path / "there")):
        output = tmp_path / f"{number}.png"
        options = ("--model", str(model), "--seed", "0", "-o", str(output))
        assert emu3("image", "x", *options).exit_code == 0
        images.append(Image.open(output).tobytes())
    assert images[0] == images[1]


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
