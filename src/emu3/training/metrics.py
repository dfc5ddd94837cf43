"""What a run tells: a JSON line a report, the same to TensorBoard and W&B, and a bar.

`log.jsonl` is the record. A resumed run first cuts off the lines of steps that a kill took back,
so that it reads as one never killed.
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
"""Where the numbers of a step go besides the log."""


class MetricsLogger:
    """Averages what it is told, and every so often writes one JSON line and prints it.

    A line holds `step`, the means of all values, documents (and, where they are counted, ids) a
    second, the peak memory in GB, how many batches were left out, if any, and, with a `ceiling` in
    FLOP/s, the share of it that was used.
    `done` are the steps of the checkpoint that the run goes on from.
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
        self._start()

    def _start(self) -> None:
        self.sums: dict[str, float] = {}
        self.count, self.items, self.ids, self.flops, self.left_out = 0, 0, 0, 0.0, 0
        self.since = time.perf_counter()

    def add(
        self,
        step: int,
        items: int,
        values: Mapping[str, float],
        *,
        ids: int = 0,
        flops: float = 0.0,
    ) -> None:
        """Values of one step that handled `items` samples of so many ids, for so many FLOP."""
        self.count += 1
        self.items, self.ids, self.flops = self.items + items, self.ids + ids, self.flops + flops
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        if (step + 1) % self.every == 0:
            self._write(step + 1)

    def leave_out(self, step: int, why: str) -> None:
        """A step whose batch was left out: printed now, counted in the next line."""
        self.print_line(why)
        self.left_out += 1
        if (step + 1) % self.every == 0:
            self._write(step + 1)

    def _write(self, step: int) -> None:
        seconds = time.perf_counter() - self.since
        line = {name: round(total / self.count, 5) for name, total in self.sums.items()}
        line["per_second"] = round(self.items / seconds, 2)
        if self.ids:
            line["ids_per_second"] = round(self.ids / seconds, 1)
        if self.flops and (ceiling := self.peak_flops()):
            line["ceiling_share"] = round(self.flops / seconds / ceiling, 4)
        if self.left_out:
            line["left_out"] = self.left_out
        line["memory_gb"] = round(peak_memory(self.device) / 1e9, 3)
        text = json.dumps({"step": step, **line})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        self.print_line(text)
        for sink in self.sinks:
            sink(step, line)
        self._start()


def truncate_log(path: Path, done: int) -> None:
    """Remove the lines of steps after `done`, and a line that a kill left half written."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _upto(line, done)]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _upto(line: str, done: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= done)
    except json.JSONDecodeError:
        return False


def peak_memory(device: torch.device) -> int:
    """Bytes: of tensors on a GPU, of the whole process on a CPU, at most so far.

    0 where the system does not say.
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
    """A writer of event files into `folder`, where the package is installed; else none."""
    if importlib.util.find_spec("tensorboard") is None:
        return []
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=done + 1)  # what a kill took back is hidden

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return [write]


def wandb_sink(project: str, folder: Path) -> list[MetricsSink]:
    """A writer into a W&B project; none without a project's name. WANDB_MODE is theirs to read.

    Raises InputError where a project is named and the package is not installed.
    """
    if not project:
        return []
    try:
        import wandb
    except ImportError:
        raise InputError("wandb is not installed: pip install wandb, or name no project") from None
    name = folder.name
    run: Any = wandb.init(project=project, name=name, id=name, dir=folder, resume="allow")

    def write(step: int, values: dict[str, float]) -> None:
        run.log(values, step=step)

    return [write]
