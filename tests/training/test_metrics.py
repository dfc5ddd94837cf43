"""Metrics log, peak memory, FLOP count and sinks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from emu3.errors import InputError
from emu3.testing import tiny_decoder
from emu3.training.flops import flops_per_token, matmul_parameters, measure_peak_flops
from emu3.training.metrics import MetricsLogger, peak_memory, tensorboard_sink, wandb_sink


def silent(line: str) -> None:
    pass


def test_log_holds_averages(tmp_path: Path) -> None:
    printed: list[str] = []
    log = MetricsLogger(tmp_path / "run" / "log.jsonl", 3, printed.append)
    for step in range(7):
        log.log(step, 4, {"loss": float(step), "learning_rate": 0.5})
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert lines == printed
    first, second = map(json.loads, lines)  # the seventh step is not written yet
    assert (first["step"], first["loss"], first["learning_rate"]) == (3, 1.0, 0.5)
    assert (second["step"], second["loss"]) == (6, 4.0)
    assert first["samples_per_second"] > 0
    assert "mfu" not in first


def test_resumed_run_truncates_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for step in range(5):
        MetricsLogger(path, 1, silent).log(step, 1, {"loss": 1.0})
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # a kill
    MetricsLogger(path, 1, silent, done=3).log(3, 1, {"loss": 2.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1), (2, 1), (3, 1), (4, 2)]


def test_mfu_is_flops_by_time_by_peak_flops(tmp_path: Path) -> None:
    log = MetricsLogger(tmp_path / "log.jsonl", 2, silent, peak_flops=lambda: 1e6)
    for step in range(2):
        log.log(step, 1, {"loss": 1.0}, tokens=500, flops=1000.0 * 500)
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["mfu"] == pytest.approx(line["tokens_per_second"] * 1000 / 1e6, rel=0.01)


def test_peak_memory_in_bytes() -> None:
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(60_000_000)
    during = peak_memory(torch.device("cpu"))
    assert during - before > 0.5 * held.nbytes or before > 1.5 * held.nbytes
    del held
    assert peak_memory(torch.device("cpu")) >= during


def test_flops_count_all_matrices_but_the_embeddings() -> None:
    model = tiny_decoder()
    matrices = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)]
    assert matmul_parameters(model.config) == sum(matrices)
    attended = model.config.num_attention_heads * model.config.head_dim * 100 / 2
    layers = 2 * model.config.num_hidden_layers
    expected = 6 * (sum(matrices) + layers * attended)
    assert flops_per_token(model.config, 100) == pytest.approx(expected)


def test_peak_flops_is_measured_once() -> None:
    first = measure_peak_flops(torch.device("cpu"), False)
    assert first > 1e8
    assert measure_peak_flops(torch.device("cpu"), False) == first


def test_tensorboard_round_trip(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, steps in ((0, (1, 2, 3)), (1, (2,))):  # the second run resumes from step 1
        (sink,) = tensorboard_sink(tmp_path, done)
        for step in steps:
            sink(step, {"loss": step + done / 2})
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 2.5)]


def test_tensorboard_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert tensorboard_sink(tmp_path, 0) == []


def test_wandb_needs_a_project_and_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert wandb_sink("", tmp_path) == []
    with pytest.raises(InputError, match="pip install wandb"):
        wandb_sink("emu3", tmp_path)
