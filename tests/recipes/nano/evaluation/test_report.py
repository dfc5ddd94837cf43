"""Reports as numbers and as a table."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.evaluation import Proportion
from recipes.nano.evaluation import Metrics, Report, SamplingSettings


@pytest.fixture
def report() -> Report:
    metrics = [
        Metrics(
            8,
            {"psnr": psnr, "psnr_gain": gain},
            {"question_object": Proportion(hits, 8, chance=1 / 400, upper_bound=1)},
        )
        for psnr, gain, hits in ((100.0, 1.5, 8), (24.5, None, 0))
    ]
    return Report("images", 8, 3, SamplingSettings(guidance_scale=2), *metrics)


def test_report_as_plain_numbers(report: Report) -> None:
    read = json.loads(json.dumps(report.to_dict()))
    assert read == report.to_dict()
    assert read["settings"] == {"samples": 8, "seed": 3, **vars(report.sampling)}
    assert read["held_out"]["means"] == {"n": 8, "psnr": 24.5, "psnr_gain": None}
    found = read["held_out"]["question_object"]
    assert (found["hits"], found["n"], found["proportion"], found["low"]) == (0, 8, 0, 0)
    assert found["high"] == pytest.approx(0.3244, abs=1e-4)
    assert (found["chance"], found["upper_bound"]) == (1 / 400, 1)


def test_table_has_intervals_chance_and_upper_bound(report: Report) -> None:
    console = Console(width=140, file=io.StringIO(), record=True)
    report.print(console)
    text = console.export_text()
    parts = ("24.50 dB", "+1.50 dB", "0.0% (0.0% to 32.4%)", "0.25%", "100.0% / 100.0%", "seed 3")
    for part in parts:
        assert part in text


def test_sampling_follows_generation_defaults() -> None:
    defaults = GenerationDefaults(guidance_scale=1.5, top_k=7, temperature=0.5)
    assert SamplingSettings.of(defaults) == SamplingSettings(1.5, 7, 1.0, 0.5)
