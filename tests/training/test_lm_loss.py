"""Packed sequences give the loss and gradients of their documents unpacked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from emu3.errors import InputError
from emu3.models.attention import PackedDocuments, attention_bias, rotary_tables
from emu3.models.transformer import Transformer
from emu3.testing import tiny_decoder
from emu3.training.lm_loss import TrainingSequence, accumulate_gradients, lm_losses

VISUAL = slice(270, 300)


def documents(lengths: Sequence[int], seed: int = 0) -> list[TrainingSequence]:
    generator = torch.Generator().manual_seed(seed)
    top = tiny_decoder().config.vocab_size
    return [
        TrainingSequence(
            torch.randint(top, (n,), generator=generator),
            torch.rand(n, generator=generator).round(decimals=1),
        )
        for n in lengths
    ]


def packed(rows: Sequence[Sequence[TrainingSequence]]) -> list[TrainingSequence]:
    return [
        TrainingSequence(
            torch.cat([d.token_ids for d in row]),
            torch.cat([d.loss_weights for d in row]),
            tuple(len(d.token_ids) for d in row),
        )
        for row in rows
    ]


def gradients(
    model: Transformer, batch: Sequence[TrainingSequence], micro_batch: int
) -> list[Tensor]:
    model.zero_grad()
    accumulate_gradients(model, batch, VISUAL, micro_batch)
    return [
        parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
    ]


@pytest.mark.parametrize("micro_batch", [1, 2, 5])
def test_packed_equals_unpacked(micro_batch: int) -> None:
    model = tiny_decoder()
    unpacked = documents([5, 1, 9, 3, 2, 7])
    rows = packed([unpacked[:3], unpacked[3:5], unpacked[5:]])
    expected = accumulate_gradients(model, unpacked, VISUAL, 6)
    actual = accumulate_gradients(model, rows, VISUAL, micro_batch)
    assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    wanted = gradients(model, unpacked, 6)
    for ours, theirs in zip(gradients(model, rows, micro_batch), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_document_lengths_equal_the_attention_mask() -> None:
    model = tiny_decoder()
    config, lengths = model.config, [(4, 1, 6), (11,), (2, 9)]
    ids = torch.randint(config.vocab_size, (3, 11))
    parts = PackedDocuments(lengths)
    by = rotary_tables(
        parts.positions(ids.device), config.head_dim, config.rope_theta, torch.float32
    )
    group = config.num_attention_heads // config.num_key_value_heads
    bias = attention_bias(parts.mask(ids.device), group, torch.float32)
    slow = model.model(model.model.embed_tokens(ids), by, None, bias)
    torch.testing.assert_close(
        model.forward_hidden(ids, document_lengths=lengths), slow, atol=1e-5, rtol=1e-4
    )


def test_first_token_of_a_document_has_no_loss() -> None:
    model = tiny_decoder()
    first, second = documents([4, 5])
    (row,) = packed([[first, second]])
    other = TrainingSequence(row.token_ids.clone(), row.loss_weights.clone(), row.document_lengths)
    other.loss_weights[4] = 9.0
    values = [lm_losses(model, [each], VISUAL)["loss"].item() for each in (row, other)]
    assert values[0] == pytest.approx(values[1])


@pytest.mark.parametrize("lengths", [(3, 3), (8,), (7, 0), (9, -2)])
def test_document_lengths_must_add_up(lengths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="do not add up to 7"):
        TrainingSequence(torch.zeros(7, dtype=torch.long), torch.ones(7), lengths)
