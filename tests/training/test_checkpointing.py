"""Checkpoints: whole or not there, and the same run on another number of processes."""

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
from emu3.training.checkpointing import LATEST, WHOLE, CheckpointManager, load_state, save_state
from emu3.training.distributed import DistributedContext
from emu3.training.errors import TrainingError
from emu3.training.optimizers import build_adamw, build_muon_and_adamw
from emu3.training.trainer import train
from tests.training.toy import RUN, Toy, flat, started

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

NINE = replace(RUN, max_grad_norm=1e9)  # the norm of pieces is rounded otherwise


def test_a_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "state.pt"
    assert load_state(path) is None
    save_state(path, {"step": 3, "model": {"weight": torch.arange(3.0)}})
    state = load_state(path)
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["model"]["weight"], torch.arange(3.0))
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]


def test_a_write_that_fails_leaves_the_state_before(
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


def test_a_checkpoint_of_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    one, other = Toy(), Toy()
    other.model.append(torch.nn.Linear(4, 4))
    CheckpointManager(tmp_path, one.model, one.optimizer).save(1)
    with pytest.raises(TrainingError, match="does not fit this run"):
        CheckpointManager(tmp_path, other.model, other.optimizer).load()


def in_two(rank: int, port: Path, work: Callable[..., None], *args: Any) -> None:
    """One of two processes over gloo that meet at a file."""
    dist.init_process_group("gloo", init_method=f"file://{port}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    world = DistributedContext(rank, 2, torch.device("cpu"), mesh)
    work(world, *args)
    world.shutdown()


def both(port: Path, work: Callable[..., None], *args: Any) -> list[int | None]:
    """Do it in two processes; their exit codes."""
    processes = [started(in_two, rank, port, work, *args) for rank in range(2)]
    for process in processes:
        process.join(100)
    return [process.exitcode for process in processes]


class Sharded(Toy):
    """The toy with its weights in pieces, or whole where it is alone. Each process sees all rows.

    Without dropout: its masks would not be those of a process alone.
    """

    def __init__(self, world: DistributedContext, muon: bool = False) -> None:
        super().__init__()
        self.model[1].p = 0.0
        if world.size > 1:
            fully_shard(self.model, mesh=world.mesh)
        self.optimizer = build_adamw(self.model.parameters(), weight_decay=0.1)
        if muon:
            self.optimizer = build_muon_and_adamw(self.model.named_parameters(), weight_decay=0.1)


def upto(world: DistributedContext, steps: int, folder: Path, muon: bool = False) -> None:
    """Train to `steps` of nine."""

    def enough(step: int) -> float:
        if step == steps:
            raise InterruptedError
        return 1.0

    toy = Sharded(world, muon)
    toy.before = enough
    with suppress(InterruptedError):
        train(toy.job(), NINE, folder, world)


def weights(folder: Path, muon: bool = False) -> dict[str, Any]:
    """The end of a run, whichever process asks."""
    toy = Sharded(DistributedContext.single_process(), muon)
    assert CheckpointManager(folder, toy.model, toy.optimizer).load() == 9
    return toy.model.state_dict()


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("order", ["alone, two, alone", "two, alone, two"])
def test_a_run_goes_on_on_another_number_of_processes(
    tmp_path: Path, order: str, muon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "MIN_MUON_ROWS", 4)  # the toy's are for Muon, too
    folder = tmp_path / "run"
    for steps, size in zip((3, 6, 9), order.split(", "), strict=True):
        if size == "two":
            assert both(tmp_path / f"meet-{steps}", upto, steps, folder, muon) == [0, 0]
            names = {path.name for path in folder.iterdir()}
            assert {LATEST, f"step-{steps}"} <= names
            assert WHOLE not in names
        else:
            upto(DistributedContext.single_process(), steps, folder, muon)
            names = {path.name for path in folder.iterdir()}
            assert WHOLE in names
            assert LATEST not in names
    upto(DistributedContext.single_process(), 9, tmp_path / "alone", muon)
    ours, theirs = weights(folder, muon), weights(tmp_path / "alone", muon)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-6)


def die_in_the_second_save(world: DistributedContext, folder: Path) -> None:
    whole, saves = checkpointing.save_pieces, list[int]()

    def half(state: Any, checkpoint_id: Path) -> None:
        whole(state, checkpoint_id=checkpoint_id)
        saves.append(1)
        if len(saves) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpointing.save_pieces = half  # type: ignore[assignment]
    upto(world, 9, folder)


def test_a_kill_during_a_save_in_pieces_keeps_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    codes = both(tmp_path / "meet-1", die_in_the_second_save, folder)
    assert -signal.SIGKILL in codes
    assert (folder / "step-6.tmp").is_dir()
    assert (folder / LATEST).read_text() == "step-3"
    assert both(tmp_path / "meet-2", upto, 9, folder) == [0, 0]
    assert both(tmp_path / "meet-3", upto, 9, tmp_path / "whole") == [0, 0]
    assert not (folder / "step-6.tmp").exists()
    assert flat(weights(folder)) == flat(weights(tmp_path / "whole"))
