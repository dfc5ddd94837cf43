"""`emu3 prepare`: what the data room does, told on the command line."""

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
def pictures(here: Path, photo: Path) -> Path:
    folder = here / "pictures"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    (folder / "a.txt").write_text("a glow")
    (folder / "b.txt").write_text("only words")
    (folder / "bad.png").write_text("no picture")
    (folder / "bad.txt").write_text("words")
    return folder


def test_it_says_what_it_made_and_goes_on(
    pictures: Path, tiny: Path, emu3: Emu3Command, checkpoint: Checkpoint
) -> None:
    command = ("prepare", "pictures", "-o", "data", "--model", tiny, "--workers", 1)
    for _ in range(2):
        done = emu3(*command, "--device", "cpu")
        assert (done.exit_code, done.stdout) == (0, "data\n"), done.output
        store = TokenDataset.open(Path("data"), checkpoint.text_tokenizer)
        assert len(store) == 2
        ids = f"0 context, {store.id_counts['text']} text, {store.id_counts['vision']} vision, 0 answer"
        total = int(store.lengths.sum())
        assert done.stderr == f"2 samples, {total} ids ({ids}), 1 skipped, see skipped.jsonl\n"
    (line,) = Path("data/skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "bad.png"
    assert emu3(*command, "--device", "cpu", "-q").stderr == ""


BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "no source": (("gone.jsonl",), "no such file or folder"),
    "no model": (("pictures", "--model", "nothing"), "no such model"),
    "no worker": (("pictures", "--workers", 0), "at least 1"),
    "slices of nothing": (("pictures", "--slice", 0), "at least 1"),
    "no folder above": (("pictures", "-o", "gone/data"), "create it first"),
    "a folder in use": (("pictures", "-o", "pictures"), "holds other files"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done(case: str, pictures: Path, tiny: Path, refused: Refused) -> None:
    arguments, says = BAD[case]
    defaults = ("--model", tiny, "-o", "data", "--workers", 1, "--device", "cpu")
    assert says in refused("prepare", *defaults, *arguments)
