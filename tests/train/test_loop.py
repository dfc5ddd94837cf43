"""What every training loop shares: the schedule, randomness by step, checkpoints, the log."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from emu3.train.loop import Log, cosine, load_state, save_state, seed_step


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_the_rate_rises_in_a_line_falls_like_a_cosine_and_ends_at_zero(warmup: int) -> None:
    steps, peak = 100, 3e-3
    rates = [cosine(step, steps, warmup, peak) for step in range(steps + 1)]
    for step in range(warmup):
        assert rates[step] == pytest.approx(peak * (step + 1) / warmup)
    assert rates[warmup] == max(rates) == pytest.approx(peak)
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True)
    assert rates[(steps + warmup) // 2] == pytest.approx(peak / 2, rel=0.03)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert cosine(steps + 5, steps, warmup, peak) == pytest.approx(0, abs=1e-12)


def drawn(seed: int, step: int) -> tuple[float, float, float]:
    rng = seed_step(seed, step)
    return torch.rand(()).item(), random.random(), float(rng.random())


def test_randomness_belongs_to_a_step() -> None:
    """Whatever was drawn before, of all three generators."""
    first = drawn(1, 7)
    others = [drawn(1, 8), drawn(2, 7), drawn(0, 7)]
    assert drawn(1, 7) == first
    for values in zip(first, *others, strict=True):
        assert len(set(values)) == len(values)


def test_a_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "state.pt"
    assert load_state(path) is None
    save_state(path, {"step": 3, "model": {"weight": torch.arange(3.0)}})
    state = load_state(path)
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["model"]["weight"], torch.arange(3.0))
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]


def test_a_write_that_fails_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})

    def full(state: object, target: Path) -> None:
        target.write_bytes(b"half a state")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="disk full"):
        save_state(path, {"step": 2})
    assert load_state(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_log_holds_means_of_what_it_was_told(tmp_path: Path) -> None:
    printed: list[str] = []
    log = Log(tmp_path / "run" / "log.jsonl", 3, printed.append)
    for step in range(7):
        log.add(step, 4, loss=float(step), rate=0.5)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert lines == printed
    first, second = map(json.loads, lines)  # the seventh step belongs to no line yet
    assert (first["step"], first["loss"], first["rate"]) == (3, 1.0, 0.5)
    assert (second["step"], second["loss"]) == (6, 4.0)
    assert first["per_second"] > 0


def test_a_resumed_run_goes_on_in_the_same_log(tmp_path: Path) -> None:
    for step in (0, 1):
        Log(tmp_path / "log.jsonl", 1, lambda line: None).add(step, 1, loss=1.0)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
