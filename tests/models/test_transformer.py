"""The decoder matches BAAI's logits, and cached forward passes match uncached ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from emu3.checkpoints.weights import load_decoder
from emu3.config import DecoderConfig
from emu3.models.precision import FP32
from emu3.models.transformer import Transformer
from emu3.testing import tiny_decoder


@torch.no_grad()
def test_logits_match_reference(reference: Path) -> None:
    golden = load_file(reference / "golden.safetensors")
    model = load_decoder(reference / "Emu3-Gen-tiny", FP32, torch.device("cpu"))
    logits = model(golden["lm.ids"].long())[..., ::499]
    torch.testing.assert_close(logits, golden["lm.logits_every_499"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@torch.no_grad()
def test_cached_equals_uncached(kv_heads: int) -> None:
    """One pass, single tokens and chunks give the same logits."""
    model = tiny_decoder(num_key_value_heads=kv_heads)
    ids = torch.randint(model.config.vocab_size, (2, 12))
    whole = model(ids)
    for chunks in ([12], [1] * 12, [5, 1, 4, 2]):
        cache = model.new_cache(2, 12)
        parts = [model(part, cache) for part in ids.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_batch_rows_of_different_lengths() -> None:
    """Tokens past a row's length are never attended to and are overwritten later."""
    model = tiny_decoder()
    long, short = torch.randint(5, 50, (1, 9)), torch.randint(5, 50, (1, 6))
    padded = torch.cat([short, torch.randint(5, 50, (1, 3))], dim=1)
    cache = model.new_cache(2, 13)
    both = model(torch.cat([long, padded]), cache)
    torch.testing.assert_close(both[:1], model(long), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[1:, :6], model(short), atol=1e-5, rtol=1e-5)
    cache.truncate([9, 6])
    for more in (torch.randint(5, 50, (2, 1)), torch.randint(5, 50, (2, 3))):
        later = model(more, cache)
        long, short = torch.cat([long, more[:1]], dim=1), torch.cat([short, more[1:]], dim=1)
        for row, whole in enumerate((long, short)):
            alone = model(whole)[:, -more.shape[1] :]
            torch.testing.assert_close(later[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cache_rows_are_appended_and_selected() -> None:
    model = tiny_decoder()
    rows = torch.randint(5, 50, (3, 7))
    cache, other = model.new_cache(2, 12), model.new_cache(1, 7)
    model(rows[:2], cache)
    model(rows[2:], other)
    cache.append_rows(other)
    cache.select_rows([2, 0])
    more = torch.randint(5, 50, (2, 2))
    later = model(more, cache)
    for index, row in enumerate([2, 0]):
        alone = model(torch.cat([rows[row], more[index]])[None])[:, -2:]
        torch.testing.assert_close(later[index : index + 1], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_is_causal() -> None:
    model = tiny_decoder()
    ids = torch.randint(model.config.vocab_size, (1, 8))
    other = ids.clone()
    other[0, 5:] = (other[0, 5:] + 1) % model.config.vocab_size
    torch.testing.assert_close(model(ids)[:, :5], model(other)[:, :5])
    assert not torch.allclose(model(ids)[:, 5:], model(other)[:, 5:])


@torch.no_grad()
def test_logits_of_vocabulary_slice() -> None:
    model = tiny_decoder()
    hidden = model.forward_hidden(torch.randint(model.config.vocab_size, (2, 4)))
    rows = slice(30, 50)
    torch.testing.assert_close(
        model.compute_logits(hidden, rows), model.compute_logits(hidden)[..., rows]
    )


@torch.no_grad()
def test_dropout_acts_in_training_only() -> None:
    model = tiny_decoder(attention_dropout=0.5)
    ids = torch.randint(model.config.vocab_size, (1, 8))
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))
    modules = [model.model.dropout, *(block.dropout for block in model.model.layers)]
    assert all(module.p == 0.5 for module in modules)
    for module in modules:
        module.p = 0.0  # only dropout on attention probabilities remains
    assert not torch.equal(model(ids), model(ids))


def test_full_cache_raises() -> None:
    model = tiny_decoder()
    cache = model.new_cache(1, 3)
    with pytest.raises(ValueError, match="holds 3 tokens per row, 4"):
        model(torch.zeros(1, 4, dtype=torch.long), cache)


def test_published_parameter_count() -> None:
    with torch.device("meta"):
        model = Transformer(DecoderConfig())
    assert sum(p.numel() for p in model.parameters()) == 8_492_011_520
