"""`emu3 bench`: results are printed and written; wrong arguments are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

Emu3Command = Callable[..., Result]


@pytest.mark.slow
def test_results_are_written_and_printed_as_json(emu3: Emu3Command, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    options = ("--way", "speculative", "--seconds", 30, "--json", "-o", out)
    done = emu3("bench", "nano", *options)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert report == json.loads(done.stdout)
    assert report["results"][0]["codes"] == 64
    assert report["machine"]["torch"] == torch.__version__


@pytest.mark.slow
def test_results_as_a_table(emu3: Emu3Command) -> None:
    done = emu3("bench", "nano", "--way", "sequential", "--seconds", 30, "--dtype", "int4")
    assert done.exit_code == 0, done.output
    for words in ("8x8 codes", "sequential", "int4", "64"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["huge"], "no such size"),
        (["nano", "--dtype", "fp7"], "unknown precision"),
        (["nano", "--way", "magic"], "no such method: 'magic'"),
        (["nano", "--way", "original", "--dtype", "int4"], "nothing to measure"),
        (["nano", "--seconds", "0"], "must be above 0"),
        (["nano", "--device", "cuda"], "no CUDA GPU"),
        (["nano", "-o", "no/where.json"], "no"),
    ],
)
def test_refusals(options: list[str], words: str, refused: Callable[..., str]) -> None:
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert words in refused("bench", *options)
