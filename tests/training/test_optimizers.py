"""Muon and the assignment of parameters to optimizers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from emu3.training.optimizers import Muon, OptimizerContainer, build_muon_and_adamw, orthogonalize


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16), (64, 17)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    """For any scale, and for tall and wide matrices."""
    for scale in (1e-4, 1.0, 1e4):
        matrix = torch.randn(shape) * scale
        result = orthogonalize(matrix)
        assert result.shape == shape
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.6
        assert values.max() < 1.3
        torch.testing.assert_close(orthogonalize(matrix.T), result.T)


def test_singular_vectors_stay() -> None:
    """U S V' becomes about U V'."""
    u, _, v = torch.linalg.svd(torch.randn(20, 12), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(1, 3, 12)) @ v
    back = u.T @ orthogonalize(matrix) @ v.T
    assert (back - torch.diag(back.diagonal())).abs().max() < 1e-3


def test_zero_stays_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(4, 6)), torch.zeros(4, 6))


def updated(start: torch.Tensor, gradients: list[torch.Tensor], decay: float = 0.0) -> torch.Tensor:
    parameter = nn.Parameter(start.clone())
    optimizer = Muon([parameter], lr=0.1, weight_decay=decay)
    for gradient in gradients:
        parameter.grad = gradient.reshape(parameter.shape).clone()
        optimizer.step()
    return parameter.detach()


def test_convolution_is_updated_like_its_matrix() -> None:
    start = torch.randn(24, 4, 3, 3)
    gradients = [torch.randn_like(start) for _ in range(3)]
    as_matrix = updated(start.flatten(1), gradients)
    torch.testing.assert_close(updated(start, gradients).flatten(1), as_matrix)
    last = start.to(memory_format=torch.channels_last)
    torch.testing.assert_close(updated(last, gradients).flatten(1), as_matrix)


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 96)])
def test_update_has_the_rms_of_adamw(shape: tuple[int, int]) -> None:
    start = torch.zeros(shape)
    step = updated(start, [torch.randn(shape) * 1e-3]) / 0.1
    assert 0.15 < step.square().mean().sqrt() < 0.25
    assert step.abs().max() < 2


def test_weight_decay_and_momentum() -> None:
    start = torch.randn(20, 20)
    zero_gradient = [torch.zeros(20, 20)]
    torch.testing.assert_close(updated(start, zero_gradient, decay=0.5), start * (1 - 0.1 * 0.5))
    with_gradient = updated(start, [torch.randn(20, 20)])
    assert not torch.equal(updated(start, [torch.randn(20, 20), *zero_gradient]), with_gradient)


@pytest.mark.parametrize("shape", [(32, 32), (48, 20), (20, 48)])
def test_steps_equal_torch_muon(shape: tuple[int, int]) -> None:
    """For a plain matrix in bfloat16, up to the rounding of the iteration."""
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    muon = Muon([ours], lr=0.01, weight_decay=0.1, bf16=True)
    reference = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        before = ours.detach().clone()
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()
        step = (ours.detach() - before).norm()
        assert (ours.detach() - theirs.detach()).norm() < 0.1 * step


def test_torch_muon_refuses_convolutions() -> None:
    """One of the reasons for our own; once it accepts them, this test fails."""
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([nn.Parameter(torch.zeros(16, 4, 3, 3))])


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(40, 16)
        self.hidden = nn.Linear(16, 32)
        self.conv = nn.Conv2d(4, 16, 3)
        self.narrow = nn.Linear(32, 4, bias=False)
        self.norm = nn.LayerNorm(16)
        self.frozen = nn.Linear(16, 16, bias=False).requires_grad_(False)


def optimizer_of(model: nn.Module) -> OptimizerContainer:
    return build_muon_and_adamw(
        model.named_parameters(), weight_decay=0.1, adamw_only=("embed_tokens",)
    )


def test_assignment_of_parameters() -> None:
    """Muon: hidden matrices and convolutions. AdamW: embeddings, vectors and small matrices."""
    model = Model()
    muon, adamw = optimizer_of(model).optimizers
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon, by_adamw = (
        {names[id(p)] for group in part.param_groups for p in group["params"]}
        for part in (muon, adamw)
    )
    assert by_muon == {"hidden.weight", "conv.weight"}
    assert by_adamw == set(names.values()) - by_muon - {"frozen.weight"}


def step(model: nn.Module, optimizer: OptimizerContainer, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in optimizer.parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step(0.01)
    assert all(parameter.grad is None for parameter in optimizer.parameters)


def test_optimizer_state_round_trip() -> None:
    one, other = Model(), Model()
    first, second = optimizer_of(one), optimizer_of(other)
    step(one, first, 1)
    other.load_state_dict(one.state_dict())
    for mine, theirs in zip(second.optimizers, first.optimizers, strict=True):
        mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    step(one, first, 2)
    step(other, second, 2)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
