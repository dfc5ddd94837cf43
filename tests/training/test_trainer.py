"""The training loop: killed, stopped, with a bad batch or a full disk, and resumed exactly."""

from __future__ import annotations

import errno
import math
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from emu3.errors import InputError
from emu3.training import checkpointing
from emu3.training.errors import TrainingError, TrainingInterrupted
from emu3.training.lr_schedule import learning_rate_at
from emu3.training.trainer import seed_step, train
from tests.training.toy_run import (
    CONFIG,
    ToyRun,
    flatten,
    logged,
    same_checkpoint,
    saved_steps,
    start_process,
)

SKIP = replace(CONFIG, on_bad_batch="skip")


def at(step: int, action: Callable[[], None]) -> Callable[[int], float]:
    """Run an action before the batch of a step."""

    def before(current: int) -> float:
        if current == step:
            action()
        return 1.0

    return before


def scaled(scales: dict[int, float]) -> Callable[[int], float]:
    return lambda step: scales.get(step, 1.0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    train(ToyRun().task(), CONFIG, folder)
    return folder


def random_numbers(seed: int, step: int) -> tuple[float, float, float]:
    rng = seed_step(seed, step)
    return torch.rand(()).item(), random.random(), float(rng.random())


def test_random_numbers_depend_on_seed_and_step() -> None:
    first = random_numbers(1, 7)
    others = [random_numbers(1, 8), random_numbers(2, 7), random_numbers(0, 7)]
    assert random_numbers(1, 7) == first
    for values in zip(first, *others, strict=True):
        assert len(set(values)) == len(values)


def reference_loop(skip: int = -1) -> nn.Module:
    """The loop in a few lines, without the optimizer step of one batch."""
    toy = ToyRun()
    for step in range(CONFIG.steps):
        toy.forward_backward(seed_step(CONFIG.seed, step), step)
        nn.utils.clip_grad_norm_(toy.optimizer.parameters, CONFIG.max_grad_norm)
        if step == skip:
            toy.model.zero_grad()
        else:
            toy.optimizer.step(
                learning_rate_at(
                    "cosine", step, CONFIG.steps, CONFIG.warmup_steps, CONFIG.learning_rate
                )
            )
    return toy.model


def test_loop_equals_reference_loop(tmp_path: Path) -> None:
    toy, saved = ToyRun(), list[int]()
    train(toy.task(on_save=saved.append), CONFIG, tmp_path)
    assert flatten(toy.model.state_dict()) == flatten(reference_loop().state_dict())
    assert saved == [3, 6, 9]
    assert [line["step"] for line in logged(tmp_path)] == list(range(1, 10))


@pytest.mark.parametrize(
    "numbers", [{"save_every": 0}, {"on_bad_batch": "?"}, {"loss_spike_factor": 1.0}]
)
def test_invalid_config_is_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(numbers))):
        replace(CONFIG, **numbers)


LONG = replace(CONFIG, steps=120, save_every=2, report_every=5)
PAUSE = 0.02  # seconds that an unfinished checkpoint is on the disk


def train_with_slow_saves(folder: Path) -> None:
    """For the test below, in a process of its own."""
    save = checkpointing.dcp_save

    def slow_save(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        time.sleep(PAUSE)

    checkpointing.dcp_save = slow_save  # type: ignore[assignment]
    train(ToyRun().task(), LONG, folder)


@pytest.mark.slow
def test_killed_at_random_moments_equals_never_killed(tmp_path: Path) -> None:
    """SIGKILL, most of the time while a checkpoint is unfinished."""
    rng, unfinished = random.Random(0), 0
    for _ in range(6):
        process = start_process(train_with_slow_saves, tmp_path)
        before = saved_steps(tmp_path)
        while process.is_alive() and saved_steps(tmp_path) == before:
            time.sleep(0.005)  # each process makes progress
        time.sleep(rng.uniform(0, 5 * PAUSE))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        unfinished += len(list(tmp_path.glob("step-*.tmp")))
    assert unfinished
    assert 0 < saved_steps(tmp_path) < LONG.steps
    train(ToyRun().task(), LONG, tmp_path)
    train(ToyRun().task(), LONG, tmp_path / "never-killed")
    assert same_checkpoint(tmp_path, tmp_path / "never-killed")
    assert not list(tmp_path.glob("step-*.tmp"))
    steps = [line["step"] for line in logged(tmp_path)]
    assert steps == sorted(set(steps))  # repeated steps are logged once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [0, 4, 5])
def test_stop_signal_saves_before_stopping(
    tmp_path: Path, finished: Path, step: int, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    toy = ToyRun(at(step, lambda: os.kill(os.getpid(), number)))
    with pytest.raises(TrainingInterrupted, match=f"step {step + 1} of 9 is saved in"):
        train(toy.task(), CONFIG, tmp_path)
    assert saved_steps(tmp_path) == step + 1
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    train(ToyRun().task(), CONFIG, tmp_path)
    assert same_checkpoint(tmp_path, finished)


def test_stop_signal_at_the_last_step_finishes_the_run(tmp_path: Path, finished: Path) -> None:
    saved: list[int] = []
    toy = ToyRun(at(8, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    train(toy.task(on_save=saved.append), CONFIG, tmp_path)
    assert saved == [3, 6, 9]
    assert same_checkpoint(tmp_path, finished)


def test_nothing_is_saved_before_can_save(tmp_path: Path) -> None:
    toy = ToyRun(at(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(TrainingInterrupted, match="step 5: no checkpoint was saved"):
        train(toy.task(can_save=lambda step: step > 5), CONFIG, tmp_path)
    assert saved_steps(tmp_path) == 0


def test_second_interrupt_stops_at_once(tmp_path: Path, finished: Path) -> None:
    def interrupt_twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not stopped")

    with pytest.raises(KeyboardInterrupt, match="at once") as caught:
        train(ToyRun(at(4, interrupt_twice)).task(), CONFIG, tmp_path)
    assert not isinstance(caught.value, TrainingInterrupted)
    assert saved_steps(tmp_path) == 3
    train(ToyRun().task(), CONFIG, tmp_path)
    assert same_checkpoint(tmp_path, finished)


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_non_finite_loss_stops_the_run(tmp_path: Path, finished: Path, scale: float) -> None:
    message = (
        r"step 5: the loss is (nan|inf); batch: seed 5, step 4, eight rows; "
        "the last checkpoint is of step 3"
    )
    with pytest.raises(TrainingError, match=message):
        train(ToyRun(scaled({4: scale})).task(), CONFIG, tmp_path)
    assert saved_steps(tmp_path) == 3
    train(ToyRun().task(), CONFIG, tmp_path)  # the bad batch has changed no weight
    assert same_checkpoint(tmp_path, finished)


def test_non_finite_gradient_stops_the_run(tmp_path: Path) -> None:
    toy = ToyRun()
    toy.model[2].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match=r"the gradient norm is (nan|inf)"):
        train(toy.task(), CONFIG, tmp_path)


def test_loss_spike_stops_the_run(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=30, loss_spike_factor=50.0)
    with pytest.raises(TrainingError, match=r"step 26: the loss is .* more than 50 times"):
        train(ToyRun(scaled({25: 30.0})).task(), config, tmp_path)
    train(ToyRun(scaled({25: 30.0})).task(), replace(config, loss_spike_factor=math.inf), tmp_path)


@pytest.mark.parametrize("killed", [False, True])
def test_skipped_batch_changes_nothing(tmp_path: Path, killed: bool) -> None:
    """Also if a kill makes the run meet the bad batch twice."""
    bad = scaled({4: math.nan})
    if killed:
        with pytest.raises(ZeroDivisionError):
            train(ToyRun(lambda step: 1 / (step != 5) * bad(step)).task(), SKIP, tmp_path)
    toy = ToyRun(bad)
    train(toy.task(), SKIP, tmp_path)
    assert flatten(toy.model.state_dict()) == flatten(reference_loop(skip=4).state_dict())
    lines = {line["step"]: line for line in logged(tmp_path)}
    assert lines[5]["skipped_batches"] == 1
    assert "skipped_batches" not in lines[6]


def test_too_many_skipped_batches_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 8"):
        train(ToyRun(scaled(dict.fromkeys(range(4, 9), math.nan))).task(), SKIP, tmp_path)


@pytest.mark.parametrize("file", ["weights", "extras"])
def test_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Whichever file of the second checkpoint cannot be written."""
    save, extras = torch.save, list[object]()

    def full(state: Any, *args: Any, **kwargs: Any) -> None:
        is_extras = isinstance(state, dict) and "loss_spikes" in state
        extras.extend([state] if is_extras else [])
        if len(extras) == 2 if file == "extras" else len(extras) == 1 and not is_extras:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, *args, **kwargs)

    with monkeypatch.context() as disk:
        disk.setattr(torch, "save", full)
        with pytest.raises(TrainingError, match=r"not saved \(.*No space left on device") as caught:
            train(ToyRun().task(), CONFIG, tmp_path)
    assert "\n" not in str(caught.value)
    assert saved_steps(tmp_path) == 3
    train(ToyRun().task(), CONFIG, tmp_path)
    assert same_checkpoint(tmp_path, finished)
    assert not list(tmp_path.glob("step-*.tmp"))


def train_with_file_limit(folder: Path, limit: int) -> None:
    """For the test below: no file of this process may grow beyond `limit` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        train(ToyRun().task(), CONFIG, folder)
    except TrainingError as error:
        os._exit(7 if "not saved (File too large)" in str(error) else 1)


def test_file_size_limit_keeps_the_previous_checkpoint(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train(ToyRun(lambda step: 1 / (step != 4)).task(), CONFIG, tmp_path)
    largest = max(path.stat().st_size for path in (tmp_path / "step-3").iterdir())
    process = start_process(train_with_file_limit, tmp_path, largest // 2)
    process.join()
    assert process.exitcode == 7
    assert saved_steps(tmp_path) == 3
    train(ToyRun().task(), CONFIG, tmp_path)
    assert same_checkpoint(tmp_path, finished)
