"""The loop: killed, stopped, struck by a bad batch or a full disk, and never the worse for it."""

from __future__ import annotations

import errno
import io
import math
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torch import nn

from emu3.errors import InputError
from emu3.training.checkpointing import load_state
from emu3.training.errors import TrainingError, TrainingInterrupted
from emu3.training.lr_schedule import learning_rate_at
from emu3.training.trainer import seed_step, train
from tests.training.toy import RUN, Toy, flat, logged, same_run, started

SKIP = replace(RUN, on_bad_batch="skip")


def step_of(folder: Path) -> int:
    state = load_state(folder / "state.pt")
    return 0 if state is None else int(state["step"])


def at(bad: int, what: Callable[[], None]) -> Callable[[int], float]:
    """Something that happens while the batch of a step is drawn."""

    def before(step: int) -> float:
        if step == bad:
            what()
        return 1.0

    return before


def scaled(by: dict[int, float]) -> Callable[[int], float]:
    return lambda step: by.get(step, 1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(Toy().job(), RUN, folder)
    return folder


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


def by_hand(leave_out: int) -> nn.Module:
    """The loop in a few lines, without the batch of one step."""
    toy = Toy()
    for step in range(RUN.steps):
        toy.gradients(seed_step(RUN.seed, step), step)
        nn.utils.clip_grad_norm_(toy.optimizer.parameters, RUN.max_grad_norm)
        if step == leave_out:
            toy.model.zero_grad()
        else:
            toy.optimizer.step(
                learning_rate_at("cosine", step, RUN.steps, RUN.warmup_steps, RUN.learning_rate)
            )
    return toy.model


def test_the_loop_is_the_loop_by_hand(tmp_path: Path) -> None:
    toy, saved = Toy(), list[int]()
    train(toy.job(on_save=saved.append), RUN, tmp_path)
    assert flat(toy.model.state_dict()) == flat(by_hand(leave_out=-1).state_dict())
    assert saved == [3, 6, 9]
    assert [line["step"] for line in logged(tmp_path)] == list(range(1, 10))


@pytest.mark.parametrize(
    "numbers", [{"save_every": 0}, {"on_bad_batch": "?"}, {"loss_spike_factor": 1.0}]
)
def test_a_run_that_cannot_be_meant_is_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(numbers))):
        replace(RUN, **numbers)


LONG = replace(RUN, steps=120, save_every=2, report_every=5)
PAUSE = 0.02  # seconds that half a checkpoint lies on the disk


def half_by_half(state: Any, file: IO[bytes]) -> None:
    """`torch.save`, slowly."""
    whole = io.BytesIO()
    SAVE(state, whole)
    data = whole.getvalue()
    file.write(data[: len(data) // 2])
    file.flush()
    time.sleep(PAUSE)
    file.write(data[len(data) // 2 :])


SAVE = torch.save


def slowly(folder: Path) -> None:
    """For the test below, in a process of its own."""
    torch.save = half_by_half  # type: ignore[assignment]
    train(Toy().job(), LONG, folder)


def test_killed_at_random_moments_is_never_killed(tmp_path: Path) -> None:
    """SIGKILL, most of the time while a checkpoint is half written."""
    rng, halves = random.Random(0), 0
    for _ in range(6):
        process = started(slowly, tmp_path)
        before = step_of(tmp_path)
        while process.is_alive() and step_of(tmp_path) == before:
            time.sleep(0.005)  # every life gets somewhere
        time.sleep(rng.uniform(0, 5 * PAUSE))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        halves += len(list(tmp_path.glob(".state.*.part.pt")))
    assert halves
    assert 0 < step_of(tmp_path) < LONG.steps
    train(Toy().job(), LONG, tmp_path)
    train(Toy().job(), LONG, tmp_path / "whole")
    assert same_run(tmp_path, tmp_path / "whole")
    assert not list(tmp_path.glob(".state.*"))
    steps = [line["step"] for line in logged(tmp_path)]
    assert steps == sorted(set(steps))  # what a kill took back is told once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [0, 4, 5])
def test_who_is_asked_to_stop_saves_first(
    tmp_path: Path, whole: Path, step: int, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    toy = Toy(at(step, lambda: os.kill(os.getpid(), number)))
    with pytest.raises(TrainingInterrupted, match=f"step {step + 1} of 9 is saved in"):
        train(toy.job(), RUN, tmp_path)
    assert step_of(tmp_path) == step + 1
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    train(Toy().job(), RUN, tmp_path)
    assert same_run(tmp_path, whole)


def test_asked_to_stop_at_the_last_step_it_is_done(tmp_path: Path, whole: Path) -> None:
    saved: list[int] = []
    toy = Toy(at(8, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    train(toy.job(on_save=saved.append), RUN, tmp_path)
    assert saved == [3, 6, 9]
    assert same_run(tmp_path, whole)


def test_what_cannot_be_saved_yet_is_not(tmp_path: Path) -> None:
    toy = Toy(at(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(TrainingInterrupted, match="step 5: nothing was saved"):
        train(toy.job(can_save=lambda step: step > 5), RUN, tmp_path)
    assert step_of(tmp_path) == 0


def test_a_second_interrupt_stops_at_once(tmp_path: Path, whole: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    with pytest.raises(KeyboardInterrupt, match="at once") as caught:
        train(Toy(at(4, twice)).job(), RUN, tmp_path)
    assert not isinstance(caught.value, TrainingInterrupted)
    assert step_of(tmp_path) == 3
    train(Toy().job(), RUN, tmp_path)
    assert same_run(tmp_path, whole)


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_bad_batch_stops_the_run_and_is_named(tmp_path: Path, whole: Path, scale: float) -> None:
    words = r"step 5: the loss is (nan|inf); batch: seed 5, step 4, eight rows; step 3 is saved"
    with pytest.raises(TrainingError, match=words):
        train(Toy(scaled({4: scale})).job(), RUN, tmp_path)
    assert step_of(tmp_path) == 3
    train(Toy().job(), RUN, tmp_path)  # no weight has seen it
    assert same_run(tmp_path, whole)


def test_a_gradient_that_overflows_is_bad_too(tmp_path: Path) -> None:
    toy = Toy()
    toy.model[2].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match=r"the gradient's norm is (nan|inf)"):
        train(toy.job(), RUN, tmp_path)


def test_a_jump_of_the_loss_is_bad(tmp_path: Path) -> None:
    run = replace(RUN, steps=30, loss_spike_factor=50.0)
    with pytest.raises(TrainingError, match=r"step 26: the loss jumped to .* more than 50 times"):
        train(Toy(scaled({25: 30.0})).job(), run, tmp_path)
    train(Toy(scaled({25: 30.0})).job(), replace(run, loss_spike_factor=math.inf), tmp_path)


@pytest.mark.parametrize("killed", [False, True])
def test_left_out_is_never_drawn(tmp_path: Path, killed: bool) -> None:
    """Also if a kill makes the run meet the bad batch twice."""
    bad = scaled({4: math.nan})
    if killed:
        with pytest.raises(ZeroDivisionError):
            train(Toy(lambda step: 1 / (step != 5) * bad(step)).job(), SKIP, tmp_path)
    toy = Toy(bad)
    train(toy.job(), SKIP, tmp_path)
    assert flat(toy.model.state_dict()) == flat(by_hand(leave_out=4).state_dict())
    lines = {line["step"]: line for line in logged(tmp_path)}
    assert lines[5]["left_out"] == 1
    assert "left_out" not in lines[6]


def test_bad_weights_are_not_left_out_forever(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 8"):
        train(Toy(scaled(dict.fromkeys(range(4, 9), math.nan))).job(), SKIP, tmp_path)


def test_a_full_disk_loses_nothing(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: dict[str, Any], file: IO[bytes]) -> None:
        if state["step"] == 6:
            file.write(b"half a state")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        SAVE(state, file)

    with monkeypatch.context() as disk:
        disk.setattr(torch, "save", full)
        with pytest.raises(TrainingError, match=r"not saved \(No space left on device\)") as told:
            train(Toy().job(), RUN, tmp_path)
    assert "\n" not in str(told.value)
    assert step_of(tmp_path) == 3
    assert not list(tmp_path.glob(".state.*"))
    train(Toy().job(), RUN, tmp_path)
    assert same_run(tmp_path, whole)


def with_little_room(folder: Path, most: int) -> None:
    """For the test below: no file of this process may grow beyond `most` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        train(Toy().job(), RUN, folder)
    except TrainingError as error:
        os._exit(7 if "not saved (File too large)" in str(error) else 1)


def test_a_disk_that_is_really_full_loses_nothing(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train(Toy(lambda step: 1 / (step != 4)).job(), RUN, tmp_path)
    process = started(with_little_room, tmp_path, (tmp_path / "state.pt").stat().st_size // 2)
    process.join()
    assert process.exitcode == 7
    assert step_of(tmp_path) == 3
    train(Toy().job(), RUN, tmp_path)
    assert same_run(tmp_path, whole)
