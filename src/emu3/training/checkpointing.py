"""Training checkpoints: everything that is needed to resume a run exactly.

A checkpoint is the folder `step-N` in the folder of the run, written by
`torch.distributed.checkpoint` (DCP) on one process or many:

    step-N/.metadata, *.distcp   weights and optimizer state, by parameter name
    step-N/extras.pt             position in the data and other state that is the same on all ranks

The folder is written as `step-N.tmp` and renamed when it is complete, so a killed run leaves the
previous checkpoint intact. One checkpoint is kept. DCP reshards on loading, so a run may continue
on another number of processes.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.checkpoint.stateful import Stateful

from emu3.files import atomic_write
from emu3.training.distributed import DistributedContext
from emu3.training.errors import TrainingError
from emu3.training.optimizers import OptimizerContainer

EXTRAS = "extras.pt"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state with `torch.save`, atomically.

    Raises TrainingError if it cannot be written; a file that was there before is kept then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        reason = _file_system_error(error)
        if reason is None:
            raise
        raise _not_saved(path, reason) from error


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a state from `save_state` onto the CPU; None if there is no such file."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@dataclass(frozen=True)
class CheckpointManager:
    """Saves and loads the checkpoints of one run in `folder`.

    `extras` are further objects with a state of plain values, such as the position in the data.
    With several processes every rank must call `save` and `load`, and all must see the same folder.
    """

    folder: Path
    model: nn.Module
    optimizer: OptimizerContainer
    extras: Mapping[str, Stateful] = field(default_factory=dict)
    distributed: DistributedContext = field(default_factory=DistributedContext.single_process)

    def save(self, step: int) -> None:
        """Write the checkpoint after `step` steps and remove the previous one.

        Raises TrainingError if it cannot be written; the previous checkpoint is kept then.
        """
        target = self.folder / f"step-{step}"
        temporary = target.with_name(f"{target.name}.tmp")
        try:
            with _ignore_single_process_warning():
                dcp_save(
                    self._state(), checkpoint_id=temporary, no_dist=self.distributed.world_size == 1
                )
        except CheckpointException as error:  # raised on all ranks, whichever failed
            cause = next(iter(error.failures.values()))[0]
            raise _not_saved(target, _file_system_error(cause) or str(cause)) from error
        reason = self._finish(temporary, target) if self.distributed.is_main else None
        if self.distributed.any(reason is not None):
            raise _not_saved(target, reason or "rank 0 could not write")

    def load(self) -> int:
        """Load the newest checkpoint; returns its number of steps, 0 if there is none.

        Raises TrainingError on a checkpoint of another model or optimizer.
        """
        if self.distributed.is_main:
            for unfinished in self.folder.glob("step-*.tmp"):
                shutil.rmtree(unfinished)
        self.distributed.barrier()
        newest = latest_checkpoint(self.folder)
        if newest is None:
            return 0
        try:
            self._load(newest)
        except (
            KeyError,
            RuntimeError,
            TypeError,
            ValueError,
            CheckpointException,  # derives from BaseException
        ) as error:
            raise TrainingError(
                f"{newest}: the checkpoint does not match this run ({error}); use another folder, "
                "or the model and settings that the run was started with"
            ) from error
        return step_of(newest)

    def _load(self, checkpoint: Path) -> None:
        saved = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
        state = self._state()
        names = {name.removeprefix("model.") for name in saved if name.startswith("model.")}
        if different := names ^ state["model"].keys():
            raise ValueError(f"different weights: {', '.join(sorted(different)[:3])}")
        # A parameter that has had no gradient yet has no optimizer state in the checkpoint.
        optimizer = state["optimizer"]["state"]
        for name in list(optimizer):
            if not any(key.startswith(f"optimizer.state.{name}.") for key in saved):
                del optimizer[name]
        with _ignore_single_process_warning():
            dcp_load(state, checkpoint_id=checkpoint, no_dist=self.distributed.world_size == 1)
        set_state_dict(
            self.model,
            self.optimizer.optimizers,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        extras = load_state(checkpoint / EXTRAS) or {}
        for name, each in self.extras.items():
            each.load_state_dict(extras[name])

    def _state(self) -> dict[str, Any]:
        """Weights and optimizer state by parameter name; sharded if there are many ranks."""
        model, optimizer = get_state_dict(self.model, self.optimizer.optimizers)
        return {"model": model, "optimizer": optimizer}

    def _finish(self, temporary: Path, target: Path) -> str | None:
        """Add the extras, rename the folder and remove older ones; returns what failed, if any."""
        try:
            save_state(
                temporary / EXTRAS, {name: each.state_dict() for name, each in self.extras.items()}
            )
            os.replace(temporary, target)
        except (OSError, TrainingError) as error:
            return str(error)
        for old in self.folder.glob("step-*"):
            if old != target:
                shutil.rmtree(old)
        return None


def latest_checkpoint(folder: Path) -> Path | None:
    """The folder of a run's newest complete checkpoint; None if there is none."""
    complete = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return max(complete, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The number of steps after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


@contextmanager
def _ignore_single_process_warning() -> Iterator[None]:
    """DCP warns on every call with `no_dist`, even though that is what the argument is for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _file_system_error(error: BaseException | None) -> str | None:
    """The message of the OSError behind an error; PyTorch's writers wrap it in their own."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        error = error.__cause__ or error.__context__
    return None


def _not_saved(path: Path, reason: str) -> TrainingError:
    return TrainingError(
        f"{path}: not saved ({reason}); the previous checkpoint is intact: free disk space, then "
        "run the same command to resume from it"
    )
