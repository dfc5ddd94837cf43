"""Chunked cross-entropy equals PyTorch's and never holds all logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from emu3.training.cross_entropy import weighted_cross_entropy


def pytorch_cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    logits = F.linear(hidden, head).float()
    entropy = F.cross_entropy(logits, targets, reduction="none")
    return (entropy * weights).sum(), entropy.detach()


def batch(
    tokens: int, width: int, entries: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    torch.manual_seed(tokens)
    hidden = torch.randn(tokens, width, dtype=dtype, requires_grad=True)
    head = torch.randn(entries, width, dtype=dtype, requires_grad=True)
    weights = torch.rand(tokens) * (torch.rand(tokens) > 0.3)
    return [hidden, head, torch.randint(entries, (tokens,)), weights]


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
@pytest.mark.parametrize(("tokens", "entries"), [(1, 2), (7, 11), (20, 5)])
def test_value_and_gradients_equal_pytorch(tokens: int, entries: int, chunk_size: int) -> None:
    hidden, head, targets, weights = batch(tokens, 6, entries)
    for scale in (1.0, -0.3):  # for any factor applied to the sum
        expected, entropy = pytorch_cross_entropy(hidden, head, targets, weights)
        wanted = torch.autograd.grad(expected * scale, [hidden, head])
        total, each = weighted_cross_entropy(hidden, head, targets, weights, chunk_size)
        found = torch.autograd.grad(total * scale, [hidden, head])
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(each, entropy)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_second_backward_is_refused() -> None:
    total, _ = weighted_cross_entropy(*batch(3, 4, 5))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute it again"):
        total.backward()


def test_bfloat16_is_as_accurate_as_pytorch() -> None:
    exact = batch(40, 16, 60)
    rounded = [part.detach().bfloat16().requires_grad_() for part in exact[:2]]
    wanted = torch.autograd.grad(pytorch_cross_entropy(*exact)[0], exact[:2])
    found = torch.autograd.grad(weighted_cross_entropy(*rounded, *exact[2:], 16)[0], rounded)
    theirs = torch.autograd.grad(pytorch_cross_entropy(*rounded, *exact[2:])[0], rounded)
    for ours, other, true in zip(found, theirs, wanted, strict=True):
        assert (ours.float() - true).norm() < 1.2 * (other.float() - true).norm() + 1e-3


def test_frozen_head_gets_no_gradient() -> None:
    hidden, head, targets, weights = batch(9, 4, 8)
    head = head.detach()
    total, _ = weighted_cross_entropy(hidden, head, targets, weights, 4)
    total.backward()
    expected = torch.autograd.grad(pytorch_cross_entropy(hidden, head, targets, weights)[0], hidden)
    assert head.grad is None
    torch.testing.assert_close(hidden.grad, expected[0])


def test_value_without_gradients() -> None:
    parts = batch(9, 4, 8)
    with torch.no_grad():
        total, _ = weighted_cross_entropy(*parts, 4)
    torch.testing.assert_close(total, pytorch_cross_entropy(*parts)[0].detach())


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor created."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return out


def test_all_logits_are_never_held() -> None:
    tokens, width, entries, chunk_size = 600, 4, 500, 20
    parts = batch(tokens, width, entries)
    with LargestTensor() as seen:
        weighted_cross_entropy(*parts, chunk_size)[0].backward()
    assert seen.elements <= max(chunk_size * entries, tokens * width, entries * width)
    with LargestTensor() as reference:
        pytorch_cross_entropy(*parts)[0].backward()
    assert reference.elements >= tokens * entries
