"""`emu3 eval`: the report printed and written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

pytest.importorskip("skimage", reason="judging needs the extra emoji")

import recipes.nano.evaluation as emu3_evaluate
from recipes.nano.emoji_world import Icons
from recipes.nano.evaluation import DrawingSettings, Figures, NanoReport, Share

Emu3Command = Callable[..., Result]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the evaluation, which takes minutes, would have been asked to do."""
    asked: dict[str, Any] = {}

    def evaluate(model: object, **settings: Any) -> NanoReport:
        asked.update(settings)
        figures = Figures(1, 30.0, 0.9, {"drawing": Share.of([True, False], chance=0.1)})
        return NanoReport(
            settings["samples"], settings["seed"], DrawingSettings(), figures, figures
        )

    monkeypatch.setattr(emu3_evaluate, "evaluate_nano", evaluate)
    monkeypatch.setattr(Icons, "load", lambda: Icons({}))
    return asked


def test_the_report_is_printed_and_written(
    emu3: Emu3Command, tiny: Path, here: Path, asked: dict[str, Any]
) -> None:
    options = ("--samples", 7, "--seed", 2, "-o", "report.json", "--sheets", "new/sheets")
    done = emu3("eval", "nano", "--model", tiny, *options)
    assert done.exit_code == 0, done.output
    assert "30.00 dB" in done.stdout
    assert json.loads((here / "report.json").read_text())["pictures"]["settings"]["samples"] == 7
    assert (asked["samples"], asked["seed"]) == (7, 2)
    assert asked["sheets"] == Path("new/sheets")
    assert asked["drawing"] == DrawingSettings()  # what the card of this model says


def test_interrupted(
    emu3: Emu3Command, tiny: Path, here: Path, asked: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(emu3_evaluate, "evaluate_nano", stop)
    done = emu3("eval", "nano", "--model", tiny, "-o", "report.json")
    assert done.exit_code == 130
    assert done.stderr == "interrupted; no report written\n"
    assert list(here.iterdir()) == []
