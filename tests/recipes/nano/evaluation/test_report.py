"""What is made of the figures: intervals, a table, a file, a sheet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.errors import InputError
from recipes.nano.evaluation import DrawingSettings, Figures, NanoReport, Share, wilson
from recipes.nano.evaluation.contact_sheets import save_sheet
from recipes.nano.evaluation.report import save_report


@pytest.fixture
def report() -> NanoReport:
    seen = Figures(8, 100, 1, {"naming": Share(8, 8, chance=1 / 400, ceiling=1)})
    held_out = Figures(8, 24.5, 0.8, {"naming": Share(0, 8, chance=1 / 400, ceiling=1)})
    return NanoReport(8, 3, DrawingSettings(guidance_scale=2), seen, held_out)


def test_a_report_can_be_saved_and_read(report: NanoReport, tmp_path: Path) -> None:
    save_report({"pictures": report.to_dict()}, tmp_path / "report.json")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    read = json.loads((tmp_path / "report.json").read_text())["pictures"]
    assert read == report.to_dict()
    assert read["settings"] == {"samples": 8, "seed": 3, **vars(report.drawing)}
    assert read["held_out"]["reconstruction"] == {"n": 8, "psnr": 24.5, "ssim": 0.8}
    naming = read["held_out"]["naming"]
    assert (naming["hits"], naming["n"], naming["share"], naming["low"]) == (0, 8, 0, 0)
    assert naming["high"] == pytest.approx(0.3244, abs=1e-4)
    assert (naming["chance"], naming["ceiling"]) == (1 / 400, 1)


def test_pictures_are_drawn_as_the_card_says() -> None:
    card = GenerationDefaults(guidance_scale=1.5, top_k=7, temperature=0.5)
    assert DrawingSettings.of(card) == DrawingSettings(1.5, 7, 1.0, 0.5)


def test_a_report_is_not_saved_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        save_report({}, tmp_path / "nowhere" / "report.json")


def test_the_table_shows_intervals_chance_and_ceiling(report: NanoReport) -> None:
    console = Console(width=140, file=io.StringIO(), record=True)
    report.print(console)
    text = console.export_text()
    for part in ("24.50 dB", "0.0% (0.0% to 32.4%)", "0.25%", "100.0% / 100.0%", "seed 3"):
        assert part in text


def test_a_sheet_frames_hits_and_misses(tmp_path: Path) -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    save_sheet([black] * 60, [black + 9] * 60, [True, False] * 30, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (8 * 80, 6 * 144, 3), "48 cells"
    hit, miss = sheet[5, 5], sheet[5, 144 + 5]
    assert hit[1] > hit[0]
    assert miss[0] > miss[1]
    assert (sheet[40, 8:72] == 0).all(), "drawn"
    assert (sheet[40, 72:136] == 9).all(), "true"
    with pytest.raises(InputError, match="one size"):
        save_sheet([black], [black[:32]], [True], tmp_path / "sheet.png")


def test_wilson_intervals_are_the_known_ones() -> None:
    assert wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.72247, 1), abs=1e-4)
    assert wilson(0, 0) == (0, 1)
    assert Share.of([], chance=0.5).value == 0
