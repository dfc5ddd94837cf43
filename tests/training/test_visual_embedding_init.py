"""Codes that look alike start alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from emu3.testing import byte_tokenizer, tiny_decoder
from emu3.training.visual_embedding_init import (
    SIZE,
    init_visual_embeddings,
    nearest_codes,
    random_fourier_features,
)

V = byte_tokenizer().vocabulary


def test_near_entries_have_near_features_and_far_ones_unrelated_ones() -> None:
    torch.manual_seed(0)
    codebook = torch.randn(200, 4)
    near = codebook + 0.02 * torch.randn(200, 4)
    both = random_fourier_features(torch.cat([codebook, near]), 512)
    alike = F.cosine_similarity(both[:200], both[200:])
    assert alike.min() > 0.9
    strangers = F.cosine_similarity(both[:200], both[:200].roll(1, 0))
    assert strangers.mean().abs() < 0.2
    assert abs(both.square().mean() - 1) < 0.05


def test_only_codes_are_set_and_always_the_same_way() -> None:
    codebook = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    plain, model, again = tiny_decoder(), tiny_decoder(), tiny_decoder()
    init_visual_embeddings(model, V.visual, codebook)
    init_visual_embeddings(again, V.visual, codebook)
    before, after = (m.model.embed_tokens.weight for m in (plain, model))
    assert torch.equal(before[: V.visual_start], after[: V.visual_start])
    assert torch.equal(after, again.model.embed_tokens.weight)
    assert abs(after[V.visual].square().mean().sqrt() - SIZE) < 0.1 * SIZE


def test_the_nearest_entries_are_the_nearest_and_never_the_entry_itself() -> None:
    codebook = torch.tensor([[0.0], [1.0], [1.5], [10.0]])
    assert nearest_codes(codebook, 2).tolist() == [[1, 2], [2, 0], [1, 0], [2, 1]]
