"""The loss that never holds all logits is the plain one, and never holds all logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from emu3.training.cross_entropy import weighted_cross_entropy


def plain(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
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


@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
@pytest.mark.parametrize(("tokens", "entries"), [(1, 2), (7, 11), (20, 5)])
def test_value_and_gradients_are_the_plain_ones(tokens: int, entries: int, at_once: int) -> None:
    hidden, head, targets, weights = batch(tokens, 6, entries)
    for scale in (1.0, -0.3):  # whatever the sum goes into afterwards
        expected, entropy = plain(hidden, head, targets, weights)
        wanted = torch.autograd.grad(expected * scale, [hidden, head])
        total, each = weighted_cross_entropy(hidden, head, targets, weights, at_once)
        found = torch.autograd.grad(total * scale, [hidden, head])
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(each, entropy)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_gradients_are_taken_once() -> None:
    total, _ = weighted_cross_entropy(*batch(3, 4, 5))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute it again"):
        total.backward()


def test_bfloat16_is_as_near_as_the_plain_way() -> None:
    exact = batch(40, 16, 60)
    rounded = [part.detach().bfloat16().requires_grad_() for part in exact[:2]]
    wanted = torch.autograd.grad(plain(*exact)[0], exact[:2])
    found = torch.autograd.grad(weighted_cross_entropy(*rounded, *exact[2:], 16)[0], rounded)
    theirs = torch.autograd.grad(plain(*rounded, *exact[2:])[0], rounded)
    for ours, other, true in zip(found, theirs, wanted, strict=True):
        assert (ours.float() - true).norm() < 1.2 * (other.float() - true).norm() + 1e-3


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, targets, weights = batch(9, 4, 8)
    head = head.detach()
    total, _ = weighted_cross_entropy(hidden, head, targets, weights, 4)
    total.backward()
    expected = torch.autograd.grad(plain(hidden, head, targets, weights)[0], hidden)
    assert head.grad is None
    torch.testing.assert_close(hidden.grad, expected[0])


def test_without_gradients_it_is_the_same_number() -> None:
    parts = batch(9, 4, 8)
    with torch.no_grad():
        total, _ = weighted_cross_entropy(*parts, 4)
    torch.testing.assert_close(total, plain(*parts)[0].detach())


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return out


def test_all_logits_are_never_held() -> None:
    tokens, width, entries, at_once = 600, 4, 500, 20
    parts = batch(tokens, width, entries)
    with Largest() as seen:
        weighted_cross_entropy(*parts, at_once)[0].backward()
    assert seen.numbers <= max(at_once * entries, tokens * width, entries * width)
    with Largest() as plainly:
        plain(*parts)[0].backward()
    assert plainly.numbers >= tokens * entries
