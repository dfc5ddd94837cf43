"""Metrics of a run: JSON lines in `log.jsonl`, the console, TensorBoard and Weights & Biases.

`log.jsonl` is the record. When a run resumes, the lines of steps after its checkpoint are removed
first, so that the file reads as if the run had never stopped.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from emu3.errors import InputError
from emu3.files import atomic_write

MetricsSink = Callable[[int, dict[str, float]], None]
"""Receives (step, metrics) in addition to the log file."""


class MetricsLogger:
    """Averages metrics over `every` steps, then writes one JSON line and prints it.

    Besides the averages a line has `step`, `samples_per_second`, `peak_memory_gb`, and where they
    apply `tokens_per_second`, `mfu` (model FLOPs utilization) and `skipped_batches`.

    Args:
        path: the log file.
        every: steps to a line.
        print_line: called with each line.
        done: steps of the checkpoint that the run resumes from; later lines are removed.
        device: device whose peak memory is logged.
        peak_flops: returns the FLOP/s of the hardware; 0 leaves out `mfu`.
        sinks: further receivers of each line.
    """

    def __init__(
        self,
        path: Path,
        every: int,
        print_line: Callable[[str], None] = print,
        *,
        done: int | None = None,
        device: torch.device | None = None,
        peak_flops: Callable[[], float] = lambda: 0.0,
        sinks: Sequence[MetricsSink] = (),
    ) -> None:
        self.path, self.every, self.print_line, self.sinks = path, every, print_line, sinks
        self.device, self.peak_flops = device or torch.device("cpu"), peak_flops
        path.parent.mkdir(parents=True, exist_ok=True)
        if done is not None:
            truncate_log(path, done)
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, float] = {}
        self.steps, self.samples, self.tokens, self.flops, self.skipped = 0, 0, 0, 0.0, 0
        self.since = time.perf_counter()

    def log(
        self,
        step: int,
        samples: int,
        metrics: Mapping[str, float],
        *,
        tokens: int = 0,
        flops: float = 0.0,
    ) -> None:
        """Add the metrics of one step and the number of samples, tokens and FLOP it took."""
        self.steps += 1
        self.samples, self.tokens = self.samples + samples, self.tokens + tokens
        self.flops += flops
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        if (step + 1) % self.every == 0:
            self._write(step + 1)

    def log_skipped(self, step: int, message: str) -> None:
        """Print why the batch of a step was skipped; the next line counts it."""
        self.print_line(message)
        self.skipped += 1
        if (step + 1) % self.every == 0:
            self._write(step + 1)

    def _write(self, step: int) -> None:
        seconds = time.perf_counter() - self.since
        line = {name: round(total / self.steps, 5) for name, total in self.sums.items()}
        line["samples_per_second"] = round(self.samples / seconds, 2)
        if self.tokens:
            line["tokens_per_second"] = round(self.tokens / seconds, 1)
        if self.flops and (peak := self.peak_flops()):
            line["mfu"] = round(self.flops / seconds / peak, 4)
        if self.skipped:
            line["skipped_batches"] = self.skipped
        line["peak_memory_gb"] = round(peak_memory(self.device) / 1e9, 3)
        text = json.dumps({"step": step, **line})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        self.print_line(text)
        for sink in self.sinks:
            sink(step, line)
        self._reset()


def truncate_log(path: Path, done: int) -> None:
    """Remove the lines of steps after `done`, and a line that a kill cut short."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _is_up_to(line, done)]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _is_up_to(line: str, done: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= done)
    except json.JSONDecodeError:
        return False


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated tensors on a GPU, resident set of the process on a CPU.

    0 where the operating system does not report it.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tensorboard_sink(folder: Path, done: int) -> list[MetricsSink]:
    """A TensorBoard writer into `folder`; an empty list if the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return []
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=done + 1)  # hides steps after the checkpoint

    def write(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return [write]


def wandb_sink(project: str, folder: Path) -> list[MetricsSink]:
    """A writer into a Weights & Biases project; an empty list for an empty project name.

    Raises InputError if a project is given and `wandb` is not installed.
    """
    if not project:
        return []
    try:
        import wandb
    except ImportError:
        raise InputError(
            "wandb is not installed; run pip install wandb, or leave wandb_project empty"
        ) from None
    name = folder.name
    run: Any = wandb.init(project=project, name=name, id=name, dir=folder, resume="allow")

    def write(step: int, metrics: dict[str, float]) -> None:
        run.log(metrics, step=step)

    return [write]
