"""Codebook training: k-means initialization, EMA updates, replacement of unused entries."""

from __future__ import annotations

import torch
from torch import Tensor

from emu3.models.vq.quantizer import VectorQuantizer
from emu3.training.vq.codebook import RESET_COUNT, CodebookTrainer, reassign_duplicates


def clusters(count: int, each: int = 40, width: float = 0.01) -> tuple[Tensor, Tensor]:
    """Centres [count, 4] far from each other and from zero, and latents around them."""
    centres = torch.randn(count, 4) * 5 + 20
    latents = centres.repeat_interleave(each, dim=0)
    return centres, latents + torch.randn_like(latents) * width


def codes_of(quantizer: VectorQuantizer, latents: Tensor) -> Tensor:
    return quantizer(latents.T[None, :, None, None]).flatten()


def error(quantizer: VectorQuantizer, latents: Tensor) -> float:
    nearest = quantizer.embedding.weight[codes_of(quantizer, latents)]
    return (latents - nearest).square().sum(1).mean().item()


def test_kmeans_places_entries_in_the_clusters() -> None:
    centres, latents = clusters(8)
    quantizer = VectorQuantizer(32, 4)
    CodebookTrainer(quantizer).init_kmeans(latents)
    entries = quantizer.embedding.weight
    assert not entries.requires_grad
    assert torch.cdist(entries, centres).min(1).values.max() < 0.1  # each entry in a cluster,
    assert torch.cdist(centres, entries).min(1).values.max() < 0.1  # each cluster with an entry
    assert error(quantizer, latents) < 1e-3


def test_kmeans_uses_the_whole_codebook() -> None:
    latents = torch.randn(4000, 4)
    quantizer = VectorQuantizer(64, 4)
    CodebookTrainer(quantizer).init_kmeans(latents)
    shares = torch.bincount(codes_of(quantizer, latents), minlength=64) / len(latents) * 64
    assert shares.min() > 0.05
    random = VectorQuantizer(64, 4)
    random.embedding.weight.data.copy_(latents[:64])
    assert error(quantizer, latents) < error(random, latents)


def test_kmeans_with_fewer_latents_than_entries() -> None:
    quantizer = VectorQuantizer(16, 4)
    latents = torch.randn(5, 4)
    CodebookTrainer(quantizer).init_kmeans(latents)
    assert quantizer.embedding.weight.isfinite().all()
    assert error(quantizer, latents) < 1e-3


def test_ema_update_by_hand() -> None:
    """The formula of van den Oord et al."""
    quantizer = VectorQuantizer(2, 1)
    quantizer.embedding.weight.data.copy_(torch.tensor([[0.0], [10.0]]))
    trainer = CodebookTrainer(quantizer, decay=0.9)
    latents, codes = torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([0, 0, 1])
    assert trainer.update(latents, codes) == 0.0
    share = 0.1 * 2 / 3
    counts = torch.tensor([0.9 + 2 * share, 0.9 + share])
    sums = torch.tensor([[0.0 * 0.9 + 3 * share], [10.0 * 0.9 + 9 * share]])
    torch.testing.assert_close(trainer.counts, counts)
    torch.testing.assert_close(quantizer.embedding.weight.data, sums / counts[:, None])
    for _ in range(200):
        trainer.update(latents, codes)
    means = torch.tensor([[1.5], [9.0]])
    torch.testing.assert_close(quantizer.embedding.weight.data, means, atol=1e-4, rtol=1e-4)


def test_unused_entries_are_replaced() -> None:
    """All entries but one start far from the data; soon every cluster has one."""
    centres, latents = clusters(6)
    quantizer = VectorQuantizer(16, 4)
    quantizer.embedding.weight.data.fill_(-1000.0)
    quantizer.embedding.weight.data[0] = centres[0]
    trainer = CodebookTrainer(quantizer, decay=0.5)
    replaced = [trainer.update(latents, codes_of(quantizer, latents)) for _ in range(60)]
    assert sum(replaced) >= 15 / 16
    assert replaced[0] == 0.0  # not in the first step
    assert torch.cdist(centres, quantizer.embedding.weight).min(1).values.max() < 0.5
    assert error(quantizer, latents) < 0.1


def test_replaced_entry_is_kept_for_some_steps() -> None:
    _, latents = clusters(2)
    quantizer = VectorQuantizer(4, 4)
    quantizer.embedding.weight.data.copy_(latents[:4])
    trainer = CodebookTrainer(quantizer)
    trainer.counts[3] = 0.0
    trainer.update(latents, torch.zeros(len(latents), dtype=torch.long))
    assert trainer.counts[3] == RESET_COUNT
    assert (quantizer.embedding.weight[3] == latents).all(1).any()  # it is one of the latents
    trainer.update(latents, torch.zeros(len(latents), dtype=torch.long))
    assert 0 < trainer.counts[3] < RESET_COUNT


def test_state_round_trip() -> None:
    _, latents = clusters(5)
    one, other = VectorQuantizer(8, 4), VectorQuantizer(8, 4)
    first, second = CodebookTrainer(one), CodebookTrainer(other)
    first.init_kmeans(latents)
    first.update(latents, codes_of(one, latents))
    other.load_state_dict(one.state_dict())
    second.load_state_dict(first.state_dict())
    for trainer, quantizer in ((first, one), (second, other)):
        torch.manual_seed(3)
        for _ in range(3):
            trainer.update(latents, codes_of(quantizer, latents))
    assert torch.equal(one.embedding.weight, other.embedding.weight)


def test_duplicates_are_reassigned() -> None:
    quantizer = VectorQuantizer(8, 2)
    corners = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    latents = corners.repeat(50, 1) + torch.randn(200, 2) * 0.01
    with torch.no_grad():
        quantizer.embedding.weight.copy_(corners[:1].repeat(8, 1) + torch.randn(8, 2) * 0.01)
    assert reassign_duplicates(quantizer, latents, radius=1.0) == 7
    table = quantizer.embedding.weight
    assert torch.cdist(corners, table).amin(1).max() < 0.1  # every corner has an entry now
    codes = quantizer(latents.T[None, :, None, None]).flatten()
    assert (latents - table[codes]).norm(dim=1).max() < 0.1


def test_usage_and_perplexity() -> None:
    """Of equally frequent codes, of a single code, and before the first update."""
    trainer = CodebookTrainer(VectorQuantizer(8, 4))
    assert (trainer.usage(), trainer.perplexity()) == (0, 0)
    latents = torch.randn(32, 4)
    trainer.update(latents, torch.arange(32) % 8)
    assert trainer.usage() == 1
    assert abs(trainer.perplexity() - 8) < 1e-4
    single = CodebookTrainer(VectorQuantizer(8, 4))
    single.update(latents, torch.full((32,), 3))
    assert single.usage() == 1 / 8
    assert abs(single.perplexity() - 1) < 1e-4


def test_replacement_is_no_usage() -> None:
    """A replaced entry counts as unused until a latent is quantized to it."""
    trainer = CodebookTrainer(VectorQuantizer(8, 4))
    replaced = sum(
        trainer.update(torch.randn(32, 4), torch.zeros(32, dtype=torch.long)) for _ in range(500)
    )
    assert replaced > 0
    assert trainer.usage() == 1 / 8


def test_usage_expires() -> None:
    trainer = CodebookTrainer(VectorQuantizer(8, 4))
    trainer.update(torch.randn(1, 4), torch.tensor([5]))
    for _ in range(100):
        trainer.update(torch.randn(1, 4), torch.tensor([0]))
    assert trainer.usage() == 2 / 8
    trainer.update(torch.randn(1, 4), torch.tensor([0]))
    assert trainer.usage() == 1 / 8
