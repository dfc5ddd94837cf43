"""Checkpoints are atomic, and a run continues on another number of processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from emu3.training import checkpointing, optimizers
from emu3.training.checkpointing import CheckpointManager, load_state, save_state
from emu3.training.distributed import DistributedContext
from emu3.training.errors import TrainingError
from emu3.training.optimizers import build_adamw, build_muon_and_adamw
from emu3.training.trainer import train
from tests.training.toy_run import CONFIG, ToyRun, flatten, start_process

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

NO_CLIPPING = replace(CONFIG, max_grad_norm=1e9)  # the norm of shards is rounded differently


def test_state_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "run" / "state.pt"
    assert load_state(path) is None
    save_state(path, {"step": 3, "model": {"weight": torch.arange(3.0)}})
    state = load_state(path)
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["model"]["weight"], torch.arange(3.0))
    assert [each.name for each in path.parent.iterdir()] == ["state.pt"]


def test_failed_write_keeps_the_previous_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})

    def full(state: object, file: Any) -> None:
        file.write(b"half a state")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="disk full"):
        save_state(path, {"step": 2})
    assert load_state(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("change", ["added", "removed", "resized"])
def test_checkpoint_of_another_model_is_refused(tmp_path: Path, change: str) -> None:
    saved, other = ToyRun(), ToyRun()
    if change == "added":
        other.model.append(torch.nn.Linear(4, 4))
    elif change == "removed":
        del other.model[2]
    else:
        other.model[2] = torch.nn.Linear(8, 5)
    other.optimizer = build_adamw(other.model.parameters(), weight_decay=0.1)
    CheckpointManager(tmp_path, saved.model, saved.optimizer).save(1)
    with pytest.raises(TrainingError, match="does not match this run"):
        CheckpointManager(tmp_path, other.model, other.optimizer).load()


def run_rank(rank: int, rendezvous: Path, work: Callable[..., None], *args: Any) -> None:
    """One of two ranks over gloo, which meet at a file."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    distributed = DistributedContext(rank, 2, torch.device("cpu"), mesh)
    work(distributed, *args)
    distributed.shutdown()


def run_two_ranks(rendezvous: Path, work: Callable[..., None], *args: Any) -> list[int | None]:
    """Run `work` on two ranks; returns their exit codes."""
    processes = [start_process(run_rank, rank, rendezvous, work, *args) for rank in range(2)]
    for process in processes:
        process.join(100)
    return [process.exitcode for process in processes]


class ShardedToyRun(ToyRun):
    """The toy model, sharded if there are two ranks. Each rank trains on all rows.

    Without dropout, whose masks would differ from those of a single process.
    """

    def __init__(self, distributed: DistributedContext, muon: bool = False) -> None:
        super().__init__()
        self.model[1].p = 0.0
        if distributed.world_size > 1:
            fully_shard(self.model, mesh=distributed.mesh)
        self.optimizer = build_adamw(self.model.parameters(), weight_decay=0.1)
        if muon:
            self.optimizer = build_muon_and_adamw(self.model.named_parameters(), weight_decay=0.1)


def train_up_to(
    distributed: DistributedContext, steps: int, folder: Path, muon: bool = False
) -> None:
    """Train some of the nine steps."""

    def stop(step: int) -> float:
        if step == steps:
            raise InterruptedError
        return 1.0

    toy = ShardedToyRun(distributed, muon)
    toy.before = stop
    with suppress(InterruptedError):
        train(toy.task(), NO_CLIPPING, folder, distributed)


def final_weights(folder: Path, muon: bool = False) -> dict[str, Any]:
    """The weights of a finished run, loaded by a single process."""
    toy = ShardedToyRun(DistributedContext.single_process(), muon)
    assert CheckpointManager(folder, toy.model, toy.optimizer).load() == 9
    return toy.model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("world_sizes", [(1, 2, 1), (2, 1, 2)])
def test_run_continues_on_another_number_of_processes(
    tmp_path: Path, world_sizes: tuple[int, ...], muon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "MIN_MUON_ROWS", 4)  # so that Muon applies to the toy model
    folder, single = tmp_path / "run", DistributedContext.single_process()
    for steps, world_size in zip((3, 6, 9), world_sizes, strict=True):
        if world_size == 2:
            rendezvous = tmp_path / f"rendezvous-{steps}"
            assert run_two_ranks(rendezvous, train_up_to, steps, folder, muon) == [0, 0]
        else:
            train_up_to(single, steps, folder, muon)
        assert [path.name for path in folder.glob("step-*")] == [f"step-{steps}"]
    train_up_to(single, 9, tmp_path / "single", muon)
    resumed, expected = final_weights(folder, muon), final_weights(tmp_path / "single", muon)
    assert resumed.keys() == expected.keys()
    for name, weight in resumed.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)


def die_in_the_second_save(distributed: DistributedContext, folder: Path) -> None:
    save, saves = checkpointing.dcp_save, list[int]()

    def save_and_die(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        saves.append(1)
        if len(saves) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpointing.dcp_save = save_and_die  # type: ignore[assignment]
    train_up_to(distributed, 9, folder)


@pytest.mark.slow
def test_kill_during_a_distributed_save_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    codes = run_two_ranks(tmp_path / "rendezvous-1", die_in_the_second_save, folder)
    assert -signal.SIGKILL in codes
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-3", "step-6.tmp"]
    assert run_two_ranks(tmp_path / "rendezvous-2", train_up_to, 9, folder) == [0, 0]
    assert run_two_ranks(tmp_path / "rendezvous-3", train_up_to, 9, tmp_path / "whole") == [0, 0]
    assert [path.name for path in folder.glob("step-*")] == ["step-9"]
    assert flatten(final_weights(folder)) == flatten(final_weights(tmp_path / "whole"))
