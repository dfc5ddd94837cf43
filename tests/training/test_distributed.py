"""Two processes train like one; real processes, started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from emu3.models.transformer import Transformer
from emu3.testing import tiny_decoder
from emu3.training.distributed import (
    DistributedContext,
    apply_activation_checkpointing,
    shard_model,
)
from emu3.training.lm_loss import TrainingSequence, accumulate_gradients

SCRIPT = """
import json
import torch
from emu3.testing import tiny_decoder
from emu3.training.compilation import compile_blocks
from emu3.training.distributed import DistributedContext, shard_model
from emu3.training.dpo import (
    DPOLossConfig, PreferencePair, accumulate_pair_gradients, add_reference_log_probs,
)
from emu3.training.lm_loss import TrainingSequence, accumulate_gradients
from emu3.training.optimizers import build_adamw, build_muon_and_adamw

VISUAL = slice(270, 300)

def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

def result(model, steps):
    norms = {name: full(p).norm().item() for name, p in model.named_parameters()}
    return {"steps": steps, "norms": norms}

def train(distributed, muon=False, compiled=False, **options):
    model, bf16 = tiny_decoder(), options.get("bf16", False)
    if compiled:
        compile_blocks(model)
    shard_model(model, distributed, **options)
    optimizer = build_adamw(model.parameters(), weight_decay=0.1)
    if muon:
        optimizer = build_muon_and_adamw(model.named_parameters(), 0.1, ("embed_tokens", "lm_head"))
    steps = []
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        batch = []
        for n in (5, 9, 1, 7, 3, 8, 4):
            ids = torch.randint(300, (n,), generator=generator)
            batch.append(TrainingSequence(ids, torch.rand(n, generator=generator)))
        batch.append(TrainingSequence(torch.arange(9), torch.ones(9), (4, 5)))
        multiple = 16 if compiled else 1
        local = distributed.shard(batch)
        losses = accumulate_gradients(model, local, VISUAL, 2, bf16, distributed, multiple)
        norm = torch.nn.utils.clip_grad_norm_(optimizer.parameters, 0.5)
        steps.append([losses["loss"], losses["text_loss"], float(full(norm))])
        optimizer.step(1e-2)
    return result(model, steps)

def train_dpo(distributed):
    generator = torch.Generator().manual_seed(0)
    def ids(n, low, high):
        return torch.randint(low, high, (n,), generator=generator)
    pairs = [
        PreferencePair(ids(n, 0, 256), ids(n + 1, 270, 300), ids(4, 270, 300))
        for n in (3, 7, 2, 4, 5)
    ]
    pairs = add_reference_log_probs(tiny_decoder(1), pairs, VISUAL)
    model = shard_model(tiny_decoder(), distributed)
    optimizer = build_adamw(model.parameters())
    steps = []
    for step in range(3):
        values = accumulate_pair_gradients(
            model, distributed.shard(pairs), VISUAL, DPOLossConfig(0.3), 1, distributed=distributed
        )
        norm = torch.nn.utils.clip_grad_norm_(optimizer.parameters, 0.5)
        steps.append([values["loss"], values["margin"], float(full(norm))])
        optimizer.step(1e-3)
    return result(model, steps)

distributed = DistributedContext.from_environment()
results = {
    "world_size": distributed.world_size,
    "plain": train(distributed),
    "checkpointing": train(distributed, activation_checkpointing=True),
    "bf16": train(distributed, bf16=True),
    "compiled": train(distributed, compiled=True, activation_checkpointing=True),
    "muon": train(distributed, muon=True),
    "vocab parallel": train(distributed, vocab_parallel=True),
    "bf16 vocab parallel": train(distributed, vocab_parallel=True, bf16=True),
    "dpo": train_dpo(distributed),
}
if distributed.is_main:
    print(json.dumps(results))
distributed.shutdown()
"""
SHUTDOWN = """
import torch
import torch.distributed as dist
from emu3.training.distributed import DistributedContext

distributed = DistributedContext.from_environment()
held = dist.group.WORLD  # as FSDP holds it
for _ in range(400):
    dist.all_reduce(torch.ones(200_000), async_op=True)
distributed.shutdown()
"""
TOLERANCES = {
    "plain": 1e-4,
    "checkpointing": 1e-4,
    "compiled": 1e-4,
    "muon": 1e-3,
    "dpo": 1e-4,
    "vocab parallel": 1e-4,
    "bf16": 2e-2,  # shards are bf16 too
    "bf16 vocab parallel": 2e-2,
}


def run_script(folder: Path, text: str, processes: int) -> str:
    """Run a script, under torchrun if there are several processes; returns its output."""
    script = folder / "script.py"
    script.write_text(text)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launch if processes > 1 else []), str(script)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def train(folder: Path, processes: int) -> dict[str, Any]:
    """The results that rank 0 prints."""
    output = run_script(folder, SCRIPT, processes).strip().splitlines()[-1]
    results: dict[str, Any] = json.loads(output)
    return results


@pytest.mark.slow
def test_shutdown_with_pending_collectives_does_not_abort(tmp_path: Path) -> None:
    """Without the delay of `shutdown` gloo's threads abort the process nearly always here."""
    run_script(tmp_path, SHUTDOWN, 2)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Losses and gradient norms of each step, with accumulation and clipping; then the weights."""
    one, two = train(tmp_path, 1), train(tmp_path, 2)
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert one["compiled"]["norms"] == pytest.approx(one["plain"]["norms"], rel=1e-4)
    for case, tolerance in TOLERANCES.items():
        found, expected = two[case], one[case]
        assert set(found["norms"]) == set(tiny_decoder().state_dict())  # names do not change
        for step, expected_step in zip(found["steps"], expected["steps"], strict=True):
            assert step == pytest.approx(expected_step, rel=tolerance), case
        assert found["norms"] == pytest.approx(expected["norms"], rel=tolerance), case


def gradients(model: Transformer, bf16: bool) -> dict[str, torch.Tensor]:
    batch = [TrainingSequence(torch.arange(12), torch.ones(12), parts) for parts in ((12,), (5, 7))]
    torch.manual_seed(1)  # of dropout
    accumulate_gradients(model.train(), batch, slice(270, 300), 2, bf16)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("bf16", [False, True])
def test_activation_checkpointing_changes_nothing(bf16: bool) -> None:
    plain, model = tiny_decoder(), tiny_decoder()
    apply_activation_checkpointing(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(gradients(model, bf16), gradients(plain, bf16), atol=0, rtol=0)


def test_single_process_is_not_sharded() -> None:
    distributed = DistributedContext.single_process()
    model = shard_model(tiny_decoder(), distributed)
    assert distributed.is_main
    assert distributed.shard([1, 2, 3]) == [1, 2, 3]
    assert distributed.sum(2.5) == distributed.max(2.5) == 2.5
    assert not distributed.any(False)
    assert all(type(p) is torch.nn.Parameter for p in model.parameters())


def test_without_torchrun_it_is_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    distributed = DistributedContext.from_environment()
    assert (distributed.rank, distributed.world_size, distributed.mesh) == (0, 1, None)
