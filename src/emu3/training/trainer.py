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
from emu3.training.checkpoints import Checkpoints, Kept, Optimizer
from emu3.training.distributed import World
from emu3.training.errors import Stopped, TrainingError
from emu3.training.flops import ceiling
from emu3.training.loss_spikes import OnBad, Watch
from emu3.training.lr_schedule import Shape, rate_at
from emu3.training.metrics import Log, tensorboard, weights_and_biases
from emu3.training.signals import listening


@dataclass(frozen=True, kw_only=True)
class Run:
    """The numbers that every run states. Raises InputError on ones that make no sense."""

    steps: int
    learning_rate: float  # the highest, at the end of the warm-up
    warmup: int  # steps in which the rate rises from zero
    clip: float  # the gradient's norm is cut to this
    bf16: bool  # products in bfloat16 (`has_bf16`); weights and optimizer stay float32
    report_every: int  # steps to a line in the log
    save_every: int  # steps to a checkpoint
    seed: int
    schedule: Shape = "cosine"  # how the rate falls
    hold: int = 0  # steps that it stays at its highest, after the warm-up
    final_rate: float = 0.0  # where it ends
    spike: float = float("inf")  # a loss above so many times the median of the last 50 is bad
    on_bad: OnBad = "stop"  # or "skip": what to do about a bad batch (watch.py)
    ceiling: float = 0.0  # FLOP/s of the device by its data sheet; 0: measured by a product
    wandb: str = ""  # project; empty: no W&B

    def __post_init__(self) -> None:
        """Refuse what no run could mean."""
        for name in ("steps", "report_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}; it must be at least 1")
        for name, known in (("schedule", get_args(Shape)), ("on_bad", get_args(OnBad))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} = {getattr(self, name)!r}; it must be one of {known}")
        if self.hold < 0:
            raise InputError(f"hold = {self.hold}; steps at the highest rate are 0 or more")
        if not self.spike > 1:
            raise InputError(f"spike = {self.spike}; it must be above 1, or every batch is bad")


@dataclass(frozen=True)
class Learned:
    """What one batch had to teach: its gradients are in the weights, no step is done yet."""

    values: Mapping[str, float]  # for the log, of all processes together; `loss` is among them
    documents: int  # or pictures; of all processes together, like the next two
    ids: int = 0
    flops: float = 0.0
    batch: str = ""  # a few words on what it was made of, should it prove bad


@dataclass(frozen=True)
class Job:
    """What the loop needs to know of what it trains.

    `gradients(randomness, step)` draws a batch and adds its gradients. `extras` have a state of
    their own that belongs into a checkpoint. `on_save(step)` follows every regular checkpoint.
    `savable(step)` says whether a checkpoint after this step could be gone on from.
    """

    model: nn.Module
    optimizer: Optimizer
    gradients: Callable[[np.random.Generator, int], Learned]
    extras: Mapping[str, Kept] = field(default_factory=dict)
    on_save: Callable[[int], None] = lambda step: None
    savable: Callable[[int], bool] = lambda step: True


def train(job: Job, run: Run, folder: Path, world: World | None = None) -> None:
    """Train from the checkpoint in `folder`, or from the beginning, to the last step.

    Raises TrainingError on a bad batch that may not be left out and on a checkpoint that cannot
    be written; Stopped, once the step is saved, after SIGTERM or Ctrl-C.
    """
    world = world or World.alone(next(job.model.parameters()).device)
    folder.mkdir(parents=True, exist_ok=True)
    watch = Watch(run.spike)
    extras = {**job.extras, "watch": watch}
    checkpoints = Checkpoints(folder, job.model, job.optimizer, extras, world)
    start = saved = checkpoints.load()
    with listening() as asked, _journal(run, folder, start, world) as log:
        for step in range(start, run.steps):
            learned = job.gradients(seed_step(run.seed, step), step)
            norm = _clipped(job.optimizer.parameters, run.clip)
            rate = _rate(run, step)
            fault = watch.fault(learned.values["loss"], norm)
            if world.any(fault is not None):
                message = _bad(step, fault or "another process says so", learned, run, saved)
                if run.on_bad == "stop" or watch.hopeless:
                    raise TrainingError(message)
                _forget(job.optimizer)
                log.leave_out(step, message)
            else:
                job.optimizer.step(rate)
                log.add(step, learned, grad=norm, rate=rate)
            done, stop = step + 1, world.any(asked())
            due = done % run.save_every == 0 or done == run.steps
            if (due or stop) and (job.savable(step) or done == run.steps):
                checkpoints.save(done)
                saved = done
                if due:
                    job.on_save(done)
            if stop and done < run.steps:
                raise Stopped(_stopped(done, saved, run, folder))


def seed_step(seed: int, step: int) -> np.random.Generator:
    """Randomness that belongs to a step and not to a process: a resumed run draws the same."""
    torch.manual_seed(seed * 1_000_003 + step)
    random.seed(seed * 1_000_003 + step)
    return np.random.default_rng((seed, step))


class _Journal:
    """The log and the bar of the first process; of the others, silence."""

    def __init__(self, log: Log | None, advance: Callable[[int], None]) -> None:
        self.log, self.advance = log, advance

    def add(self, step: int, learned: Learned, **values: float) -> None:
        """Tell of a step that was done."""
        if self.log is not None:
            told = {**learned.values, **values}
            self.log.add(step, learned.documents, told, ids=learned.ids, flops=learned.flops)
        self.advance(1)

    def leave_out(self, step: int, why: str) -> None:
        """Tell of a step that was not."""
        if self.log is not None:
            self.log.leave_out(step, why)
        self.advance(1)


@contextmanager
def _journal(run: Run, folder: Path, start: int, world: World) -> Iterator[_Journal]:
    if not world.first:
        yield _Journal(None, lambda count: None)
        return
    measured = partial(ceiling, world.device, run.bf16)
    log = Log(
        folder / "log.jsonl",
        run.report_every,
        done=start,
        device=world.device,
        ceiling=lambda: (run.ceiling or measured()) * world.size,
        sinks=[
            *tensorboard(folder / "tensorboard", start),
            *weights_and_biases(run.wandb, folder),
        ],
    )
    with count_progress(f"training {folder.name}", run.steps - start) as advance:
        yield _Journal(log, advance)


def _rate(run: Run, step: int) -> float:
    peak, final = run.learning_rate, run.final_rate
    return rate_at(run.schedule, step, run.steps, run.warmup, peak, final, run.hold)


def _clipped(parameters: list[nn.Parameter], most: float) -> float:
    """The norm of the gradients, which are cut to at most `most`."""
    norm: Tensor = nn.utils.clip_grad_norm_(parameters, most)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()


def _forget(optimizer: Optimizer) -> None:
    for part in optimizer.parts:
        part.zero_grad(set_to_none=True)


def _bad(step: int, fault: str, learned: Learned, run: Run, saved: int) -> str:
    batch = f"seed {run.seed}, step {step}" + (f", {learned.batch}" if learned.batch else "")
    if run.on_bad == "skip":
        end = "left out"
    else:
        end = "lower the learning rate, or run with on_bad='skip' to leave such batches out"
    checkpoint = f"step {saved} is saved" if saved else "nothing is saved yet"
    return f"step {step + 1}: {fault}; batch: {batch}; {checkpoint}; {end}"


def _stopped(done: int, saved: int, run: Run, folder: Path) -> str:
    where = f"step {saved} of {run.steps} is saved in {folder}" if saved else "nothing was saved"
    lost = "" if saved == done else f"; the {done - saved} after it have to be done again"
    return f"asked to stop at step {done}: {where}{lost}; the same command goes on from there"
