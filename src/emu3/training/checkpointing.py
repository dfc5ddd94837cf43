"""Checkpoints: everything needed to go on exactly, written whole or not at all.

On one process a checkpoint is the file `state.pt`. On several, each writes its own pieces of the
weights into the folder `step-N`, and the file `latest` names the folder that is whole. Both kinds
know weights and optimizer state by the names of parameters, so a run may go on on any number of
processes. One checkpoint is kept; it goes once its successor is in place.

Sources: `torch.distributed.checkpoint` and its `state_dict` module.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_pieces
from torch.distributed.checkpoint.state_dict_saver import save as save_pieces

from emu3.files import atomic_write
from emu3.training.distributed import DistributedContext
from emu3.training.errors import TrainingError
from emu3.training.optimizers import OptimizerContainer

WHOLE, LATEST, EXTRAS = "state.pt", "latest", "extras.pt"


@runtime_checkable
class Stateful(Protocol):
    """Anything with a state of plain values and tensors that is part of a checkpoint."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Go on from a state."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state whole or not at all; a kill during the write keeps the one before.

    Raises TrainingError where the disk is full or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        reason = _from_disk(error)
        if reason is None:
            raise
        raise _not_saved(path, reason) from error


def load_state(path: Path) -> dict[str, Any] | None:
    """The state at `path`, on the CPU, or None where a run starts fresh."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@dataclass(frozen=True)
class CheckpointManager:
    """The checkpoints of one run in `folder`: weights, optimizer, and whatever else is kept.

    With more than one process in `world`, every process must call `save` and `load`, and the
    folder must be one that all of them see.
    """

    folder: Path
    model: nn.Module
    optimizer: OptimizerContainer
    extras: Mapping[str, Stateful] = field(default_factory=dict)
    world: DistributedContext = field(default_factory=DistributedContext.single_process)

    def save(self, step: int) -> None:
        """Write the checkpoint of a run that has done `step` steps.

        Raises TrainingError where it cannot be written; the one before is untouched then.
        """
        extras = {name: each.state_dict() for name, each in self.extras.items()}
        if self.world.size > 1:
            self._save_shards(step, {"step": step, **extras})
        else:
            save_state(self.folder / WHOLE, {"step": step, **self._state(), **extras})
            self._remove_all_but(WHOLE)

    def load(self) -> int:
        """Go on from the newest checkpoint: how many steps it has done, 0 where there is none.

        Raises TrainingError where a checkpoint is not one of this model and optimizer.
        """
        if self.world.is_main:
            self._remove_unfinished()
        self.world.barrier()
        whole, shards = load_state(self.folder / WHOLE), self._latest()
        try:
            if shards is not None and (whole is None or whole["step"] < _step_of(shards)):
                return self._load_shards(shards)
            return 0 if whole is None else self._take(whole, whole=self.world.size > 1)
        except (
            KeyError,
            RuntimeError,
            TypeError,
            ValueError,
            CheckpointException,  # a BaseException of theirs
        ) as error:
            raise TrainingError(
                f"{self.folder}: its checkpoint does not fit this run ({error}); "
                "name a new folder, or go back to the numbers that the run began with"
            ) from error

    def _state(self) -> dict[str, Any]:
        """Weights and optimizer state by the names of parameters; on several processes, pieces."""
        model, optimizer = get_state_dict(self.model, self.optimizer.optimizers)
        return {"model": model, "optimizer": optimizer}

    def _take(self, state: dict[str, Any], whole: bool) -> int:
        """Load a state; `whole` says that it must be cut into pieces first."""
        set_state_dict(
            self.model,
            self.optimizer.optimizers,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(full_state_dict=whole),
        )
        for name, each in self.extras.items():
            each.load_state_dict(state[name])
        return int(state["step"])

    def _latest(self) -> Path | None:
        """The folder of pieces that is whole."""
        pointer = self.folder / LATEST
        return self.folder / pointer.read_text("utf-8").strip() if pointer.exists() else None

    def _load_shards(self, shards: Path) -> int:
        state = self._state()
        load_pieces(state, checkpoint_id=shards, no_dist=self.world.size == 1)
        return self._take({**state, **(load_state(shards / EXTRAS) or {})}, whole=False)

    def _save_shards(self, step: int, extras: dict[str, Any]) -> None:
        target = self.folder / f"step-{step}"
        temporary = target.with_name(f"{target.name}.tmp")
        self.world.barrier()  # nobody still reads what is replaced below
        try:
            save_pieces(self._state(), checkpoint_id=temporary)
        except CheckpointException as error:  # on all processes, whichever it happened to
            raise _not_saved(target, str(next(iter(error.failures.values()))[0])) from error
        reason = self._finish(temporary, target, extras) if self.world.is_main else None
        if self.world.any(reason is not None):
            raise _not_saved(target, reason or "the first process could not write")

    def _finish(self, temporary: Path, target: Path, extras: dict[str, Any]) -> str | None:
        """Add what is in no piece and put the folder in its place; what went wrong, if anything."""
        try:
            save_state(temporary / EXTRAS, extras)
            if target.exists():  # a kill came between the two lines below
                shutil.rmtree(target)
            os.replace(temporary, target)
            with atomic_write(self.folder / LATEST) as pointer:
                pointer.write_text(target.name, encoding="utf-8")
        except (OSError, TrainingError) as error:
            return str(error)
        self._remove_all_but(target.name)
        return None

    def _remove_all_but(self, kept: str) -> None:
        """Remove the checkpoints before, of either kind."""
        if kept == WHOLE:
            (self.folder / LATEST).unlink(missing_ok=True)
        else:
            (self.folder / WHOLE).unlink(missing_ok=True)
        for old in self.folder.glob("step-*"):
            if old.name != kept and old.is_dir():
                shutil.rmtree(old)

    def _remove_unfinished(self) -> None:
        """Remove what a kill left half written."""
        for half in self.folder.glob(".state.*.part.pt"):
            half.unlink(missing_ok=True)
        for half in self.folder.glob("step-*.tmp"):
            shutil.rmtree(half)


def _step_of(shards: Path) -> int:
    return int(shards.name.removeprefix("step-"))


def _from_disk(error: BaseException | None) -> str | None:
    """What the file system said. PyTorch's writer hides it behind an error of its own."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        error = error.__cause__ or error.__context__
    return None


def _not_saved(path: Path, reason: str) -> TrainingError:
    return TrainingError(
        f"{path}: not saved ({reason}); the checkpoint before it is untouched: "
        "make room, and the same command goes on from there"
    )
