"""The one training loop: draw, learn, check, step, tell, save.

A run is a folder: a checkpoint (everything needed to go on exactly), `log.jsonl` (one line a
report), `tensorboard/` where that package is installed, and whatever a recipe adds. What is
trained, and on what, is a `Job`; with which numbers, a `Run`.

All randomness of a step comes from the run's seed and the step's number. So a run that is killed
and started again draws what one that was never killed draws, and ends with the same weights.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from emu3.errors import InputError
from emu3.progress import count_progress
from emu3.training.checkpointing import CheckpointManager, Stateful
from emu3.training.distributed import DistributedContext
from emu3.training.errors import TrainingError, TrainingInterrupted
from emu3.training.flops import measure_peak_flops
from emu3.training.loss_spikes import BadBatchPolicy, LossSpikeDetector
from emu3.training.lr_schedule import LRSchedule, learning_rate_at
from emu3.training.metrics import MetricsLogger, tensorboard_sink, wandb_sink
from emu3.training.optimizers import OptimizerContainer
from emu3.training.signals import catch_stop_signals


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The numbers that every run states. Raises InputError on ones that make no sense."""

    steps: int
    learning_rate: float  # the highest, at the end of the warm-up
    warmup_steps: int  # steps in which the rate rises from zero
    max_grad_norm: float  # the gradient's norm is cut to this
    bf16: bool  # products in bfloat16 (`has_bf16`); weights and optimizer stay float32
    report_every: int  # steps to a line in the log
    save_every: int  # steps to a checkpoint
    seed: int
    schedule: LRSchedule = "cosine"  # how the rate falls
    hold_steps: int = 0  # steps that it stays at its highest, after the warm-up
    final_learning_rate: float = 0.0  # where it ends
    loss_spike_factor: float = float(
        "inf"
    )  # a loss above so many times the median of the last 50 is bad
    on_bad_batch: BadBatchPolicy = "stop"  # or "skip": what to do about a bad batch (watch.py)
    peak_flops: float = 0.0  # FLOP/s of the device by its data sheet; 0: measured by a product
    wandb_project: str = ""  # project; empty: no W&B

    def __post_init__(self) -> None:
        """Refuse what no run could mean."""
        for name in ("steps", "report_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}; it must be at least 1")
        for name, known in (
            ("schedule", get_args(LRSchedule)),
            ("on_bad_batch", get_args(BadBatchPolicy)),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"{name} = {getattr(self, name)!r}; it must be one of {known}")
        if self.hold_steps < 0:
            raise InputError(
                f"hold_steps = {self.hold_steps}; steps at the highest rate are 0 or more"
            )
        if not self.loss_spike_factor > 1:
            raise InputError(
                f"loss_spike_factor = {self.loss_spike_factor}; it must be above 1, or every batch is bad"
            )


@dataclass(frozen=True)
class StepResult:
    """What one batch had to teach: its gradients are in the weights, no step is done yet."""

    metrics: Mapping[str, float]  # for the log, of all processes together; `loss` is among them
    samples: int  # or pictures; of all processes together, like the next two
    tokens: int = 0
    flops: float = 0.0
    description: str = ""  # a few words on what it was made of, should it prove bad


@dataclass(frozen=True)
class TrainingTask:
    """What the loop needs to know of what it trains.

    `gradients(randomness, step)` draws a batch and adds its gradients. `extras` have a state of
    their own that belongs into a checkpoint. `on_save(step)` follows every regular checkpoint.
    `savable(step)` says whether a checkpoint after this step could be gone on from.
    """

    model: nn.Module
    optimizer: OptimizerContainer
    forward_backward: Callable[[np.random.Generator, int], StepResult]
    extras: Mapping[str, Stateful] = field(default_factory=dict)
    on_save: Callable[[int], None] = lambda step: None
    can_save: Callable[[int], bool] = lambda step: True


def train(
    job: TrainingTask, run: TrainingConfig, folder: Path, world: DistributedContext | None = None
) -> None:
    """Train from the checkpoint in `folder`, or from the beginning, to the last step.

    Raises TrainingError on a bad batch that may not be left out and on a checkpoint that cannot
    be written; Stopped, once the step is saved, after SIGTERM or Ctrl-C.
    """
    world = world or DistributedContext.single_process(next(job.model.parameters()).device)
    folder.mkdir(parents=True, exist_ok=True)
    watch = LossSpikeDetector(run.loss_spike_factor)
    extras = {**job.extras, "watch": watch}
    checkpoints = CheckpointManager(folder, job.model, job.optimizer, extras, world)
    start = saved = checkpoints.load()
    with catch_stop_signals() as asked, _journal(run, folder, start, world) as log:
        for step in range(start, run.steps):
            learned = job.forward_backward(seed_step(run.seed, step), step)
            norm = _clipped(job.optimizer.parameters, run.max_grad_norm)
            rate = _rate(run, step)
            fault = watch.fault(learned.metrics["loss"], norm)
            if world.any(fault is not None):
                message = _bad(step, fault or "another process says so", learned, run, saved)
                if run.on_bad_batch == "stop" or watch.hopeless:
                    raise TrainingError(message)
                _forget(job.optimizer)
                log.leave_out(step, message)
            else:
                job.optimizer.step(rate)
                log.add(step, learned, grad=norm, rate=rate)
            done, stop = step + 1, world.any(asked())
            due = done % run.save_every == 0 or done == run.steps
            if (due or stop) and (job.can_save(step) or done == run.steps):
                checkpoints.save(done)
                saved = done
                if due:
                    job.on_save(done)
            if stop and done < run.steps:
                raise TrainingInterrupted(_stopped(done, saved, run, folder))


def seed_step(seed: int, step: int) -> np.random.Generator:
    """Randomness that belongs to a step and not to a process: a resumed run draws the same."""
    torch.manual_seed(seed * 1_000_003 + step)
    random.seed(seed * 1_000_003 + step)
    return np.random.default_rng((seed, step))


class _Journal:
    """The log and the bar of the first process; of the others, silence."""

    def __init__(self, log: MetricsLogger | None, advance: Callable[[int], None]) -> None:
        self.log, self.advance = log, advance

    def add(self, step: int, learned: StepResult, **values: float) -> None:
        """Tell of a step that was done."""
        if self.log is not None:
            told = {**learned.metrics, **values}
            self.log.add(step, learned.samples, told, ids=learned.tokens, flops=learned.flops)
        self.advance(1)

    def leave_out(self, step: int, why: str) -> None:
        """Tell of a step that was not."""
        if self.log is not None:
            self.log.leave_out(step, why)
        self.advance(1)


@contextmanager
def _journal(
    run: TrainingConfig, folder: Path, start: int, world: DistributedContext
) -> Iterator[_Journal]:
    if not world.is_main:
        yield _Journal(None, lambda count: None)
        return
    measured = partial(measure_peak_flops, world.device, run.bf16)
    log = MetricsLogger(
        folder / "log.jsonl",
        run.report_every,
        done=start,
        device=world.device,
        peak_flops=lambda: (run.peak_flops or measured()) * world.size,
        sinks=[
            *tensorboard_sink(folder / "tensorboard", start),
            *wandb_sink(run.wandb_project, folder),
        ],
    )
    with count_progress(f"training {folder.name}", run.steps - start) as advance:
        yield _Journal(log, advance)


def _rate(run: TrainingConfig, step: int) -> float:
    peak, final = run.learning_rate, run.final_learning_rate
    return learning_rate_at(
        run.schedule, step, run.steps, run.warmup_steps, peak, final, run.hold_steps
    )


def _clipped(parameters: list[nn.Parameter], most: float) -> float:
    """The norm of the gradients, which are cut to at most `most`."""
    norm: Tensor = nn.utils.clip_grad_norm_(parameters, most)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()


def _forget(optimizer: OptimizerContainer) -> None:
    for part in optimizer.optimizers:
        part.zero_grad(set_to_none=True)


def _bad(step: int, fault: str, learned: StepResult, run: TrainingConfig, saved: int) -> str:
    batch = f"seed {run.seed}, step {step}" + (
        f", {learned.description}" if learned.description else ""
    )
    if run.on_bad_batch == "skip":
        end = "left out"
    else:
        end = "lower the learning rate, or run with on_bad='skip' to leave such batches out"
    checkpoint = f"step {saved} is saved" if saved else "nothing is saved yet"
    return f"step {step + 1}: {fault}; batch: {batch}; {checkpoint}; {end}"


def _stopped(done: int, saved: int, run: TrainingConfig, folder: Path) -> str:
    where = f"step {saved} of {run.steps} is saved in {folder}" if saved else "nothing was saved"
    lost = "" if saved == done else f"; the {done - saved} after it have to be done again"
    return f"asked to stop at step {done}: {where}{lost}; the same command goes on from there"
