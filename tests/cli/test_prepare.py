"""The command `emu3 prepare`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from emu3.checkpoints.loading import Checkpoint
from emu3.data.dataset import TokenDataset

Emu3Command = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture
def images(here: Path, photo: Path) -> Path:
    folder = here / "images"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    (folder / "a.txt").write_text("a glow")
    (folder / "b.txt").write_text("only words")
    (folder / "bad.png").write_text("no image")
    (folder / "bad.txt").write_text("words")
    return folder


def test_prepare_and_resume(
    images: Path, tiny: Path, emu3: Emu3Command, checkpoint: Checkpoint
) -> None:
    command = ("prepare", "images", "-o", "data", "--model", tiny, "--workers", 1)
    for _ in range(2):
        done = emu3(*command, "--device", "cpu")
        assert (done.exit_code, done.stdout) == (0, "data\n"), done.output
        dataset = TokenDataset.open(Path("data"), checkpoint.text_tokenizer)
        assert len(dataset) == 2
        counts = dataset.id_counts
        ids = f"0 context, {counts['text']} text, {counts['vision']} vision, 0 answer"
        total = int(dataset.lengths.sum())
        assert done.stderr == f"2 samples, {total} ids ({ids}), 1 skipped, see skipped.jsonl\n"
    (line,) = Path("data/skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "bad.png"
    assert emu3(*command, "--device", "cpu", "-q").stderr == ""


INVALID: dict[str, tuple[tuple[object, ...], str]] = {
    "no source": (("missing.jsonl",), "no such file or folder"),
    "no model": (("images", "--model", "nothing"), "no such model"),
    "no worker": (("images", "--workers", 0), "at least 1"),
    "slices of nothing": (("images", "--slice", 0), "at least 1"),
    "no folder above": (("images", "-o", "missing/data"), "create it first"),
    "a folder in use": (("images", "-o", "images"), "holds other files"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_give_one_line(
    case: str, images: Path, tiny: Path, refused: Refused
) -> None:
    arguments, message = INVALID[case]
    defaults = ("--model", tiny, "-o", "data", "--workers", 1, "--device", "cpu")
    assert message in refused("prepare", *defaults, *arguments)


def test_no_valid_sample_is_an_error_that_names_the_reasons(
    here: Path, tiny: Path, emu3: Emu3Command
) -> None:
    (here / "samples.jsonl").write_text('{"txt": "a wrong key"}\n')
    arguments = ("samples.jsonl", "--model", tiny, "-o", "data", "--workers", 1, "--device", "cpu")
    result = emu3("prepare", *arguments)
    assert result.exit_code == 2
    assert "error: data: no sample is valid" in result.stderr
    (skipped,) = (here / "data" / "skipped.jsonl").read_text().splitlines()
    assert "txt" in skipped
