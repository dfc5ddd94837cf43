"""`emu3 bench`: what is measured is written down; what cannot be measured is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

Emu3Command = Callable[..., Result]


@pytest.mark.slow
def test_figures_go_to_a_file_and_to_stdout(emu3: Emu3Command, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    options = ("--way", "windows", "--seconds", 1, "--json", "-o", out)
    done = emu3("bench", "nano", *options)
    assert done.exit_code == 0, done.output
    said = json.loads(out.read_text())
    assert said == json.loads(done.stdout)
    assert said["results"][0]["codes"] == 64
    assert said["machine"]["torch"] == torch.__version__


@pytest.mark.slow
def test_a_table_for_people(emu3: Emu3Command) -> None:
    done = emu3("bench", "nano", "--way", "sequential", "--seconds", 1, "--dtype", "int4")
    assert done.exit_code == 0, done.output
    for words in ("8x8 codes", "ours, a code a pass", "int4", "64"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["huge"], "no such size"),
        (["nano", "--dtype", "fp7"], "unknown precision"),
        (["nano", "--way", "magic"], "no such way: magic"),
        (["nano", "--way", "original", "--dtype", "int4"], "nothing to measure"),
        (["nano", "--seconds", "0"], "must be above 0"),
        (["nano", "--device", "cuda"], "no CUDA GPU"),
        (["nano", "-o", "no/where.json"], "no"),
    ],
)
def test_refusals(options: list[str], says: str, refused: Callable[..., str]) -> None:
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is one here")
    assert says in refused("bench", *options)
