"""`python -m recipes.nano.evaluate`: the report is printed and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("skimage", reason="classifying icons needs the extra nano")

from emu3.errors import InputError
from emu3.evaluation import Proportion
from emu3.testing import tiny_checkpoint
from recipes.nano import evaluate
from recipes.nano.emoji_world import Icons
from recipes.nano.evaluation import Metrics, NearestIconClassifier, Report, SamplingSettings


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint().save(folder)
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of the evaluations, which take minutes."""
    calls: list[dict[str, Any]] = []

    def measure(model: object, **settings: Any) -> Report:
        calls.append(settings)
        proportions = {"generation_object": Proportion.of([True, False], chance=0.1)}
        metrics = Metrics(1, {"psnr": 30.0}, proportions)
        sampling = settings["sampling"]
        return Report("images", settings["samples"], settings["seed"], sampling, metrics, metrics)

    for name in ("evaluate_images", "evaluate_videos"):
        monkeypatch.setattr(evaluate, name, measure)
    monkeypatch.setattr(Icons, "load", lambda: Icons({}))
    monkeypatch.setattr(NearestIconClassifier, "build", lambda icons: None)
    return calls


def test_report_is_printed_and_written(
    tiny: Path, tmp_path: Path, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    output, sheets = tmp_path / "report.json", tmp_path / "new" / "sheets"
    options = ["--samples", "7", "--seed", "2", "-o", str(output), "--sheets", str(sheets)]
    evaluate.run(evaluate.parse(["--model", str(tiny), *options]))
    assert "30.00 dB" in capsys.readouterr().out
    assert json.loads(output.read_text())["images"]["settings"]["samples"] == 7
    (call,) = calls  # the checkpoint is not for videos
    assert (call["samples"], call["seed"], call["sheets"]) == (7, 2, sheets)
    assert call["sampling"] == SamplingSettings()  # the defaults of this checkpoint


def test_images_and_videos_have_their_own_number_of_samples(calls: list[dict[str, Any]]) -> None:
    evaluate.run(evaluate.parse([]))
    assert [each["samples"] for each in calls] == list(evaluate.PAIRS.values())


def test_videos_need_a_checkpoint_for_videos(tiny: Path, calls: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="not trained on videos"):
        evaluate.run(evaluate.parse(["--model", str(tiny), "--only", "video"]))
    assert not calls


def test_sheets_into_a_file_are_refused_before_the_work(
    tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        evaluate.run(evaluate.parse(["--sheets", str(tmp_path / "file")]))
    assert not calls
