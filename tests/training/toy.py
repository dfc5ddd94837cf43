"""A job of the loop that takes milliseconds: a linear layer and random targets."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from emu3.training.checkpointing import load_state
from emu3.training.optimizers import OptimizerContainer, build_adamw
from emu3.training.trainer import StepResult, TrainingConfig, TrainingTask

RUN = TrainingConfig(
    steps=9,
    learning_rate=1e-2,
    warmup_steps=2,
    max_grad_norm=1.0,
    bf16=False,
    report_every=1,
    save_every=3,
    seed=5,
)


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4))


@dataclass
class Toy:
    """`before(step)` is called ahead of each batch, and what it returns is the batch's scale."""

    before: Callable[[int], float] = lambda step: 1.0

    def __post_init__(self) -> None:
        self.model = layers()
        self.optimizer: OptimizerContainer = build_adamw(self.model.parameters(), weight_decay=0.1)

    def gradients(self, rng: np.random.Generator, step: int) -> StepResult:
        scale = self.before(step)
        rows = torch.from_numpy(rng.normal(size=(8, 4))).float() * scale
        loss = (self.model(rows) - rows.flip(1)).square().mean()
        loss.backward()
        return StepResult({"loss": loss.item()}, len(rows), tokens=32, description="eight rows")

    def job(self, **more: Any) -> TrainingTask:
        return TrainingTask(self.model, self.optimizer, self.gradients, **more)


def flat(state: Any) -> list[Any]:
    """A nested state as a list, tensors as their bytes: for comparison bit by bit."""
    if isinstance(state, torch.Tensor):
        return [state.shape, state.contiguous().numpy().tobytes()]
    if isinstance(state, dict):
        return [part for key in sorted(state, key=str) for part in (key, *flat(state[key]))]
    if isinstance(state, list | tuple):
        return [part for each in state for part in flat(each)]
    return [state]


def same_run(one: Path, other: Path) -> bool:
    return flat(load_state(one / "state.pt")) == flat(load_state(other / "state.pt"))


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def started(work: Callable[..., None], *args: Any) -> Any:
    """A process of its own that does this; forked, so that it need not import PyTorch again."""
    process = multiprocessing.get_context("fork").Process(target=work, args=args)
    process.start()
    return process
