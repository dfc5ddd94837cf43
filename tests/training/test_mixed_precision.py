"""Mixed precision: gradients close to float32, attention in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emu3.testing import tiny_decoder
from emu3.training.lm_loss import TrainingSequence, accumulate_gradients
from emu3.training.mixed_precision import autocast, has_fast_bf16

CPU = torch.device("cpu")


def documents() -> list[TrainingSequence]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, 500, (length,), generator=generator) for length in (9, 14, 20)]
    return [
        TrainingSequence(each, torch.rand(len(each), generator=generator) + 0.5) for each in ids
    ]


def gradients(*, bf16: bool) -> tuple[dict[str, float], Tensor]:
    model = tiny_decoder(attention_dropout=0.0).requires_grad_(True).train()
    means = accumulate_gradients(model, documents(), slice(400, 531), micro_batch_size=2, bf16=bf16)
    return means, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_bf16_gradients_are_close_to_float32() -> None:
    (exact, want), (near, got) = gradients(bf16=False), gradients(bf16=True)
    assert got.dtype == torch.float32
    assert not torch.equal(got, want)
    assert F.cosine_similarity(got, want, dim=0) > 0.999
    assert near["loss"] == pytest.approx(exact["loss"], rel=0.01)


def test_attention_runs_in_float32() -> None:
    q = torch.randn(1, 2, 5, 8)
    with autocast(CPU, bf16=True):
        out = F.scaled_dot_product_attention(q.bfloat16(), q, q, is_causal=True)
        narrow = q @ q.transpose(-1, -2)
    assert (out.dtype, narrow.dtype) == (torch.float32, torch.bfloat16)


def test_without_bf16_everything_is_float32() -> None:
    q = torch.randn(3, 3)
    with autocast(CPU, bf16=False):
        assert torch.equal(q @ q, torch.mm(q, q))
        assert (q @ q).dtype == torch.float32


def test_fast_bf16_depends_on_the_cpu() -> None:
    assert has_fast_bf16("cuda")
    units = torch.backends.cpu.get_cpu_capability()
    if units in ("DEFAULT", "AVX2", "AVX512"):  # x86
        assert has_fast_bf16(CPU) == (units == "AVX512")
