"""The training loop: forward and backward, check, optimizer step, log, save.

A run is a folder with the latest checkpoint (`checkpointing.py`), `log.jsonl`, and `tensorboard/`
if that package is installed. A `TrainingTask` says what is trained on which batches, a
`TrainingConfig` holds the numbers.

All randomness of a step derives from the seed of the run and the number of the step. A run that is
killed and resumed therefore ends with the same weights as one that was never killed.
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
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.tensor import DTensor

from emu3.errors import InputError
from emu3.progress import count_progress
from emu3.training.checkpointing import CheckpointManager
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
    """Settings of every run. Raises InputError on values outside their range."""

    steps: int
    learning_rate: float  # peak, reached at the end of the warm-up
    warmup_steps: int  # steps in which the learning rate rises from zero
    max_grad_norm: float  # gradients are clipped to this norm
    bf16: bool  # autocast to bfloat16; weights and optimizer state stay float32
    report_every: int  # steps to a line in the log
    save_every: int  # steps to a checkpoint
    seed: int
    schedule: LRSchedule = "cosine"  # decay of the learning rate
    hold_steps: int = 0  # steps at the peak learning rate, after the warm-up
    final_learning_rate: float = 0.0  # at the last step
    loss_spike_factor: float = float("inf")  # bad batch: a loss above this times the recent median
    on_bad_batch: BadBatchPolicy = "stop"  # or "skip"; see loss_spikes.py
    peak_flops: float = 0.0  # FLOP/s of the device, for MFU; 0: measured by a matrix product
    wandb_project: str = ""  # empty: no Weights & Biases

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("steps", "report_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        choices = {"schedule": get_args(LRSchedule), "on_bad_batch": get_args(BadBatchPolicy)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {known}")
        if self.hold_steps < 0:
            raise InputError(f"hold_steps is {self.hold_steps}; it must be at least 0")
        if not self.loss_spike_factor > 1:
            raise InputError(f"loss_spike_factor is {self.loss_spike_factor}; it must be above 1")


@dataclass(frozen=True)
class StepResult:
    """Result of one forward and backward pass; the optimizer has not stepped yet.

    All numbers are over all ranks.
    """

    metrics: Mapping[str, float]  # for the log; must contain `loss`
    samples: int  # sequences or images
    tokens: int = 0
    flops: float = 0.0
    description: str = ""  # of the batch, for the message if it is bad


@dataclass(frozen=True)
class TrainingTask:
    """What is trained, and on which batches.

    Attributes:
        model: the model whose weights are saved in checkpoints.
        optimizer: its optimizers.
        forward_backward: called with (random generator, step); draws a batch and adds gradients.
        extras: further state for the checkpoint, by name.
        on_save: called with the number of steps after every regular checkpoint.
        can_save: whether a run could resume from a checkpoint after this many steps.
    """

    model: nn.Module
    optimizer: OptimizerContainer
    forward_backward: Callable[[np.random.Generator, int], StepResult]
    extras: Mapping[str, Stateful] = field(default_factory=dict)
    on_save: Callable[[int], None] = lambda step: None
    can_save: Callable[[int], bool] = lambda step: True


def train(
    task: TrainingTask,
    config: TrainingConfig,
    folder: Path,
    distributed: DistributedContext | None = None,
) -> None:
    """Train to the last step, from the checkpoint in `folder` if there is one.

    Raises TrainingError on a bad batch that may not be skipped and on a checkpoint that cannot be
    written or loaded; TrainingInterrupted after SIGTERM or Ctrl-C, once the step is saved.
    """
    device = next(task.model.parameters()).device
    distributed = distributed or DistributedContext.single_process(device)
    folder.mkdir(parents=True, exist_ok=True)
    detector = LossSpikeDetector(config.loss_spike_factor)
    extras = {**task.extras, "loss_spikes": detector}
    checkpoints = CheckpointManager(folder, task.model, task.optimizer, extras, distributed)
    start = saved = checkpoints.load()
    with (
        catch_stop_signals() as stop_requested,
        _step_logger(config, folder, start, distributed) as logger,
    ):
        for step in range(start, config.steps):
            result = task.forward_backward(seed_step(config.seed, step), step)
            grad_norm = _clip_grad_norm(task.optimizer.parameters, config.max_grad_norm)
            learning_rate = _learning_rate(config, step)
            problem = detector.check(result.metrics["loss"], grad_norm)
            if distributed.any(problem is not None):
                message = _bad_batch(
                    step, problem or "bad batch on another rank", result, config, saved
                )
                if config.on_bad_batch == "stop" or detector.must_stop:
                    raise TrainingError(message)
                task.optimizer.zero_grad()
                logger.log_skipped(step, message)
            else:
                task.optimizer.step(learning_rate)
                logger.log(step, result, grad_norm=grad_norm, learning_rate=learning_rate)
            done, stop = step + 1, distributed.any(stop_requested())
            due = done % config.save_every == 0 or done == config.steps
            if (due or stop) and (task.can_save(step) or done == config.steps):
                checkpoints.save(done)
                saved = done
                if due:
                    task.on_save(done)
            if stop and done < config.steps:
                raise TrainingInterrupted(_interrupted(done, saved, config, folder))


def seed_step(seed: int, step: int) -> np.random.Generator:
    """Seed PyTorch and `random` for a step and return a NumPy generator for it.

    The seeds depend on the step and not on the process, so a resumed run draws the same numbers.
    """
    torch.manual_seed(seed * 1_000_003 + step)
    random.seed(seed * 1_000_003 + step)
    return np.random.default_rng((seed, step))


class _StepLogger:
    """Log and progress bar of rank 0; on the other ranks `logger` is None."""

    def __init__(self, logger: MetricsLogger | None, advance: Callable[[int], None]) -> None:
        self.logger, self.advance = logger, advance

    def log(self, step: int, result: StepResult, **metrics: float) -> None:
        """Log a completed step."""
        if self.logger is not None:
            self.logger.log(
                step,
                result.samples,
                {**result.metrics, **metrics},
                tokens=result.tokens,
                flops=result.flops,
            )
        self.advance(1)

    def log_skipped(self, step: int, message: str) -> None:
        """Log a skipped batch."""
        if self.logger is not None:
            self.logger.log_skipped(step, message)
        self.advance(1)


@contextmanager
def _step_logger(
    config: TrainingConfig, folder: Path, start: int, distributed: DistributedContext
) -> Iterator[_StepLogger]:
    if not distributed.is_main:
        yield _StepLogger(None, lambda count: None)
        return
    measured = partial(measure_peak_flops, distributed.device, config.bf16)
    logger = MetricsLogger(
        folder / "log.jsonl",
        config.report_every,
        done=start,
        device=distributed.device,
        peak_flops=lambda: (config.peak_flops or measured()) * distributed.world_size,
        sinks=[
            *tensorboard_sink(folder / "tensorboard", start),
            *wandb_sink(config.wandb_project, folder),
        ],
    )
    with count_progress(f"training {folder.name}", config.steps - start) as advance:
        yield _StepLogger(logger, advance)


def _learning_rate(config: TrainingConfig, step: int) -> float:
    return learning_rate_at(
        config.schedule,
        step,
        config.steps,
        config.warmup_steps,
        config.learning_rate,
        config.final_learning_rate,
        config.hold_steps,
    )


def _clip_grad_norm(parameters: list[nn.Parameter], max_norm: float) -> float:
    """Clip the gradients to `max_norm`; returns their norm before clipping."""
    norm: Tensor = nn.utils.clip_grad_norm_(parameters, max_norm)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()


def _bad_batch(
    step: int, problem: str, result: StepResult, config: TrainingConfig, saved: int
) -> str:
    batch = f"seed {config.seed}, step {step}"
    if result.description:
        batch += f", {result.description}"
    if config.on_bad_batch == "skip":
        action = "batch skipped"
    else:
        action = "lower the learning rate, or set on_bad_batch='skip' to skip such batches"
    checkpoint = f"the last checkpoint is of step {saved}" if saved else "there is no checkpoint"
    return f"step {step + 1}: {problem}; batch: {batch}; {checkpoint}; {action}"


def _interrupted(done: int, saved: int, config: TrainingConfig, folder: Path) -> str:
    state = "no checkpoint was saved"
    if saved:
        state = f"step {saved} of {config.steps} is saved in {folder}"
    lost = "" if saved == done else f"; the last {done - saved} steps will be repeated"
    return f"stopped after step {done}: {state}{lost}; run the same command to resume"
