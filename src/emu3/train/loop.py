"""What every training loop shares: a schedule, a log, and checkpoints that survive a kill.

A run is a folder: `state.pt` (everything needed to go on exactly), `log.jsonl` (one line a report)
and whatever the recipe adds, such as sheets of samples.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emu3.files import replacing


def cosine(step: int, steps: int, warmup: int, peak: float) -> float:
    """Learning rate at `step`: linear from zero to `peak` over `warmup`, then a cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; a kill during the write keeps the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None where a run starts fresh."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def seed_step(seed: int, step: int) -> np.random.Generator:
    """Randomness that belongs to a step and not to a process: a resumed run draws the same."""
    torch.manual_seed(seed * 1_000_003 + step)
    random.seed(seed * 1_000_003 + step)
    return np.random.default_rng((seed, step))


class Log:
    """Averages what it is told, and every so often writes one JSON line and prints it."""

    def __init__(self, path: Path, every: int, print_line: Callable[[str], None] = print) -> None:
        self.path, self.every, self.print_line = path, every, print_line
        self.sums: dict[str, float] = {}
        self.count, self.since = 0, time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, step: int, items: int, **values: float) -> None:
        """Values of one step that handled `items` samples."""
        self.count += 1
        for name, value in {"items": items, **values}.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        if (step + 1) % self.every == 0:
            self._write(step + 1)

    def _write(self, step: int) -> None:
        seconds = time.perf_counter() - self.since
        rate = self.sums.pop("items") / seconds
        means = {name: round(total / self.count, 5) for name, total in self.sums.items()}
        line = json.dumps({"step": step, **means, "per_second": round(rate, 2)})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.print_line(line)
        self.sums, self.count, self.since = {}, 0, time.perf_counter()
