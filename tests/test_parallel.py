"""Two processes learn what one learns; real processes, started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from emu3.decoder.transformer import Transformer
from emu3.parallel import World, recompute_blocks, shard_model
from emu3.testing import tiny_decoder

SCRIPT = """
import json, sys
import torch
from emu3.parallel import World, shard_model
from emu3.testing import tiny_decoder
from emu3.train.adamw import PlainAdamW
from emu3.train.documents import Document, accumulate

world = World.from_environment()
model = shard_model(tiny_decoder(), world, recompute="recompute" in sys.argv)
optimizer = PlainAdamW(model.parameters(), decay=0.1)
said = []
for step in range(4):
    generator = torch.Generator().manual_seed(step)
    batch = []
    for n in (5, 9, 1, 7, 3, 8, 4):
        ids = torch.randint(300, (n,), generator=generator)
        batch.append(Document(ids, torch.rand(n, generator=generator)))
    batch.append(Document(torch.arange(9), torch.ones(9), (4, 5)))
    means = accumulate(model, world.share(batch), slice(270, 300), 2, world=world)
    norm = torch.nn.utils.clip_grad_norm_(optimizer.parameters, 0.5)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    said.append([means["loss"], means["text"], float(norm)])
    optimizer.step(1e-2)
whole = {}
for name, p in model.named_parameters():
    whole[name] = (p.full_tensor() if hasattr(p, "full_tensor") else p).norm().item()
if world.first:
    print(json.dumps({"size": world.size, "steps": said, "norms": whole}))
if world.size > 1:
    torch.distributed.destroy_process_group()
"""


def learn(folder: Path, processes: int, *words: str) -> dict[str, object]:
    """Run the script, alone or under torchrun; what the first process printed."""
    script = folder / "learn.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launch if processes > 1 else []), str(script), *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return learn(tmp_path_factory.mktemp("one"), 1)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("recompute",)])
def test_two_processes_learn_what_one_learns(
    one: dict[str, object], tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Losses and gradient norms step by step, with accumulation and clipping; then the weights."""
    two = learn(tmp_path, 2, *words)
    assert (one["size"], two["size"]) == (1, 2)
    torch.testing.assert_close(
        torch.tensor(two["steps"]), torch.tensor(one["steps"]), atol=1e-5, rtol=1e-4
    )
    assert set(two["norms"]) == set(tiny_decoder().state_dict())  # the checkpoint's names
    for name, norm in one["norms"].items():  # type: ignore[attr-defined]
        assert two["norms"][name] == pytest.approx(norm, rel=1e-4), name  # type: ignore[index]


def gradients(model: Transformer) -> dict[str, torch.Tensor]:
    ids = torch.arange(24).view(2, 12)
    model.zero_grad()
    model.logits(model.hidden(ids, parts=[(12,), (5, 7)])).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_computing_again_changes_nothing() -> None:
    plain, model = tiny_decoder(), tiny_decoder()
    recompute_blocks(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(gradients(model), gradients(plain))


def test_alone_nothing_is_cut_and_nothing_is_sent() -> None:
    world = World.alone()
    model = shard_model(tiny_decoder(), world)
    assert world.first
    assert world.share([1, 2, 3]) == [1, 2, 3]
    assert world.total(2.5) == world.most(2.5) == 2.5
    assert not world.any(False)
    assert all(type(p) is torch.nn.Parameter for p in model.parameters())


def test_without_torchrun_one_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    world = World.from_environment()
    assert (world.rank, world.size, world.mesh) == (0, 1, None)
