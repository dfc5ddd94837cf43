"""The codebook: placed where the data are, following them, and none of it idle for long."""

from __future__ import annotations

import torch
from torch import Tensor

from emu3.models.vq.quantizer import VectorQuantizer
from emu3.training.vq.codebook import FRESH, CodebookTrainer, reassign_duplicates


def clusters(count: int, each: int = 40, width: float = 0.01) -> tuple[Tensor, Tensor]:
    """Centres [count, 4] far from each other and from zero, and rows around them."""
    centres = torch.randn(count, 4) * 5 + 20
    rows = centres.repeat_interleave(each, dim=0)
    return centres, rows + torch.randn_like(rows) * width


def codes_of(quantizer: VectorQuantizer, rows: Tensor) -> Tensor:
    return quantizer(rows.T[None, :, None, None]).flatten()


def error(quantizer: VectorQuantizer, rows: Tensor) -> float:
    nearest = quantizer.embedding.weight[codes_of(quantizer, rows)]
    return (rows - nearest).square().sum(1).mean().item()


def test_the_start_puts_every_entry_among_the_data() -> None:
    centres, rows = clusters(8)
    quantizer = VectorQuantizer(32, 4)
    CodebookTrainer(quantizer).start(rows)
    entries = quantizer.embedding.weight
    assert not entries.requires_grad
    assert torch.cdist(entries, centres).min(1).values.max() < 0.1  # each entry in a cluster,
    assert torch.cdist(centres, entries).min(1).values.max() < 0.1  # each cluster with an entry
    assert error(quantizer, rows) < 1e-3


def test_the_start_uses_all_of_the_codebook() -> None:
    rows = torch.randn(4000, 4)
    quantizer = VectorQuantizer(64, 4)
    CodebookTrainer(quantizer).start(rows)
    shares = torch.bincount(codes_of(quantizer, rows), minlength=64) / len(rows) * 64
    assert shares.min() > 0.05
    random = VectorQuantizer(64, 4)
    random.embedding.weight.data.copy_(rows[:64])
    assert error(quantizer, rows) < error(random, rows)


def test_the_start_copes_with_fewer_rows_than_entries() -> None:
    quantizer = VectorQuantizer(16, 4)
    rows = torch.randn(5, 4)
    CodebookTrainer(quantizer).start(rows)
    assert quantizer.embedding.weight.isfinite().all()
    assert error(quantizer, rows) < 1e-3


def test_entries_follow_the_mean_of_their_rows() -> None:
    """The moving averages of the paper, by hand."""
    quantizer = VectorQuantizer(2, 1)
    quantizer.embedding.weight.data.copy_(torch.tensor([[0.0], [10.0]]))
    book = CodebookTrainer(quantizer, decay=0.9)
    rows, codes = torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([0, 0, 1])
    assert book.update(rows, codes) == 0.0
    share = 0.1 * 2 / 3
    counts = torch.tensor([0.9 + 2 * share, 0.9 + share])
    sums = torch.tensor([[0.0 * 0.9 + 3 * share], [10.0 * 0.9 + 9 * share]])
    torch.testing.assert_close(book.counts, counts)
    torch.testing.assert_close(quantizer.embedding.weight.data, sums / counts[:, None])
    for _ in range(200):
        book.update(rows, codes)
    means = torch.tensor([[1.5], [9.0]])
    torch.testing.assert_close(quantizer.embedding.weight.data, means, atol=1e-4, rtol=1e-4)


def test_idle_entries_move_to_where_they_are_needed() -> None:
    """All entries but one start far from everything; soon every cluster has one."""
    centres, rows = clusters(6)
    quantizer = VectorQuantizer(16, 4)
    quantizer.embedding.weight.data.fill_(-1000.0)
    quantizer.embedding.weight.data[0] = centres[0]
    book = CodebookTrainer(quantizer, decay=0.5)
    revived = [book.update(rows, codes_of(quantizer, rows)) for _ in range(60)]
    assert sum(revived) >= 15 / 16
    assert revived[0] == 0.0  # not on first sight
    assert torch.cdist(centres, quantizer.embedding.weight).min(1).values.max() < 0.5
    assert error(quantizer, rows) < 0.1


def test_a_moved_entry_has_time_to_prove_itself() -> None:
    _, rows = clusters(2)
    quantizer = VectorQuantizer(4, 4)
    quantizer.embedding.weight.data.copy_(rows[:4])
    book = CodebookTrainer(quantizer)
    book.counts[3] = 0.0
    book.update(rows, torch.zeros(len(rows), dtype=torch.long))
    assert book.counts[3] == FRESH
    assert (quantizer.embedding.weight[3] == rows).all(1).any()  # it is one of the rows
    book.update(rows, torch.zeros(len(rows), dtype=torch.long))
    assert 0 < book.counts[3] < FRESH


def test_a_resumed_book_goes_on_the_same() -> None:
    _, rows = clusters(5)
    one, other = VectorQuantizer(8, 4), VectorQuantizer(8, 4)
    first, second = CodebookTrainer(one), CodebookTrainer(other)
    first.start(rows)
    first.update(rows, codes_of(one, rows))
    other.load_state_dict(one.state_dict())
    second.load_state_dict(first.state_dict())
    for book, quantizer in ((first, one), (second, other)):
        torch.manual_seed(3)
        for _ in range(3):
            book.update(rows, codes_of(quantizer, rows))
    assert torch.equal(one.embedding.weight, other.embedding.weight)


def test_entries_that_double_another_are_moved_to_where_they_are_needed() -> None:
    quantizer = VectorQuantizer(8, 2)
    corners = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    rows = corners.repeat(50, 1) + torch.randn(200, 2) * 0.01
    with torch.no_grad():
        quantizer.embedding.weight.copy_(corners[:1].repeat(8, 1) + torch.randn(8, 2) * 0.01)
    assert reassign_duplicates(quantizer, rows, radius=1.0) == 7
    table = quantizer.embedding.weight
    assert torch.cdist(corners, table).amin(1).max() < 0.1  # every corner has an entry now
    codes = quantizer(rows.T[None, :, None, None]).flatten()
    assert (rows - table[codes]).norm(dim=1).max() < 0.1


def test_use_and_perplexity_say_what_codes_say() -> None:
    """Of equally frequent codes all are counted; of one code, one; of none, none."""
    book = CodebookTrainer(VectorQuantizer(8, 4))
    assert (book.used(), book.perplexity()) == (0, 0)
    rows = torch.randn(32, 4)
    book.update(rows, torch.arange(32) % 8)
    assert book.used() == 1
    assert abs(book.perplexity() - 8) < 1e-4
    single = CodebookTrainer(VectorQuantizer(8, 4))
    single.update(rows, torch.full((32,), 3))
    assert single.used() == 1 / 8
    assert abs(single.perplexity() - 1) < 1e-4


def test_a_revival_is_no_use() -> None:
    """An entry that was only moved counts as unused until a latent chooses it."""
    book = CodebookTrainer(VectorQuantizer(8, 4))
    revived = sum(
        book.update(torch.randn(32, 4), torch.zeros(32, dtype=torch.long)) for _ in range(500)
    )
    assert revived > 0
    assert book.used() == 1 / 8


def test_use_of_long_ago_is_forgotten() -> None:
    book = CodebookTrainer(VectorQuantizer(8, 4))
    book.update(torch.randn(1, 4), torch.tensor([5]))
    for _ in range(100):
        book.update(torch.randn(1, 4), torch.tensor([0]))
    assert book.used() == 2 / 8
    book.update(torch.randn(1, 4), torch.tensor([0]))
    assert book.used() == 1 / 8


def test_a_checkpoint_from_before_use_was_counted_is_gone_on_from() -> None:
    book, other = CodebookTrainer(VectorQuantizer(8, 4)), CodebookTrainer(VectorQuantizer(8, 4))
    book.update(torch.randn(32, 4), torch.arange(32) % 8)
    old = {name: part for name, part in book.state_dict().items() if name != "uses"}
    other.load_state_dict(old)
    assert torch.equal(other.counts, book.counts)
    assert other.perplexity() == 0
