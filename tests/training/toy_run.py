"""A training task that takes milliseconds: two linear layers and random data."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from emu3.training.checkpointing import EXTRAS, latest_checkpoint, load_state, step_of
from emu3.training.optimizers import OptimizerContainer, build_adamw
from emu3.training.trainer import StepResult, TrainingConfig, TrainingTask

CONFIG = TrainingConfig(
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
class ToyRun:
    """`before(step)` is called before each batch and returns the scale of its data."""

    before: Callable[[int], float] = lambda step: 1.0

    def __post_init__(self) -> None:
        self.model = layers()
        self.optimizer: OptimizerContainer = build_adamw(self.model.parameters(), weight_decay=0.1)

    def forward_backward(self, rng: np.random.Generator, step: int) -> StepResult:
        scale = self.before(step)
        rows = torch.from_numpy(rng.normal(size=(8, 4))).float() * scale
        loss = (self.model(rows) - rows.flip(1)).square().mean()
        loss.backward()
        return StepResult({"loss": loss.item()}, len(rows), tokens=32, description="eight rows")

    def task(self, **more: Any) -> TrainingTask:
        return TrainingTask(self.model, self.optimizer, self.forward_backward, **more)


def flatten(state: Any) -> list[Any]:
    """A nested state as a list with tensors as bytes, to compare bit by bit."""
    if isinstance(state, torch.Tensor):
        return [state.shape, state.contiguous().numpy().tobytes()]
    if isinstance(state, dict):
        return [part for key in sorted(state, key=str) for part in (key, *flatten(state[key]))]
    if isinstance(state, list | tuple):
        return [part for each in state for part in flatten(each)]
    return [state]


def saved_steps(folder: Path) -> int:
    """Steps of the latest checkpoint, 0 if there is none."""
    latest = latest_checkpoint(folder)
    return 0 if latest is None else step_of(latest)


def saved_state(folder: Path) -> dict[str, Any]:
    """The full content of the latest checkpoint."""
    latest = latest_checkpoint(folder)
    assert latest is not None
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "state.pt"
        dcp_to_torch_save(latest, path)
        state: dict[str, Any] = torch.load(path, weights_only=True)
    return {"step": step_of(latest), "extras": load_state(latest / EXTRAS), **state}


def same_checkpoint(one: Path, other: Path) -> bool:
    return flatten(saved_state(one)) == flatten(saved_state(other))


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def start_process(work: Callable[..., None], *args: Any) -> Any:
    """A forked process that runs `work`; forking avoids importing PyTorch again."""
    process = multiprocessing.get_context("fork").Process(target=work, args=args)
    process.start()
    return process
