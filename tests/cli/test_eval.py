"""`emu3 eval`: figures are printed and written; missing and wrong arguments are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Emu3Command = Callable[..., Result]


@pytest.fixture
def data(emu3: Emu3Command, tiny: Path, here: Path, photo: Path) -> Path:
    line = json.dumps({"image": str(photo), "text": "a ball"})
    (here / "samples.jsonl").write_text(line, encoding="utf-8")
    options = ("-o", "data", "--model", tiny, "--workers", 1)
    done = emu3("prepare", "samples.jsonl", *options)
    assert done.exit_code == 0, done.output
    return here / "data"


def test_token_loss_and_reconstruction(
    emu3: Emu3Command, tiny: Path, here: Path, data: Path, photo: Path
) -> None:
    options = ("--data", data, "--images", photo.parent, "--limit", 5, "--json", "report.json")
    done = emu3("eval", tiny, *options)
    assert done.exit_code == 0, done.output
    for words in ("perplexity", "vision", "PSNR", "codebook usage"):
        assert words in done.stdout
    report = json.loads((here / "report.json").read_text())
    assert report["model"].endswith("tiny")
    assert report["dtype"] == "fp32"
    assert report["data"]["roles"]["vision"]["tokens"] > 0
    assert report["images"]["images"] == 1


def test_without_data_the_error_says_what_to_pass(refused: Callable[..., str]) -> None:
    line = refused("eval", "nano")
    for words in ("--data DIR", "--images DIR", "python -m recipes.nano.evaluate"):
        assert words in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--images", "nowhere"], "no such folder"),
        (["--data", "nowhere"], "no such folder"),
        (["--images", "."], "no images"),
        (["--data", "."], "emu3 prepare"),
        (["--images", ".", "--limit", "0"], "at least 1"),
        (["--images", ".", "--json", "no/where.json"], "no such folder"),
    ],
)
def test_refusals(refused: Callable[..., str], options: list[str], words: str) -> None:
    assert words in refused("eval", "nano", *options)


def test_data_of_another_vocabulary_is_refused(data: Path, refused: Callable[..., str]) -> None:
    assert "vocabulary" in refused("eval", "nano", "--data", data)
