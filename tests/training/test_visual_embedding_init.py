"""Visual embeddings are initialized from the codebook."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from emu3.testing import byte_tokenizer, tiny_decoder
from emu3.training.visual_embedding_init import (
    RMS,
    init_visual_embeddings,
    nearest_codes,
    random_fourier_features,
)

V = byte_tokenizer().vocabulary


def test_similar_entries_have_similar_features() -> None:
    torch.manual_seed(0)
    codebook = torch.randn(200, 4)
    near = codebook + 0.02 * torch.randn(200, 4)
    both = random_fourier_features(torch.cat([codebook, near]), 512)
    similar = F.cosine_similarity(both[:200], both[200:])
    assert similar.min() > 0.9
    unrelated = F.cosine_similarity(both[:200], both[:200].roll(1, 0))
    assert unrelated.mean().abs() < 0.2
    assert abs(both.square().mean() - 1) < 0.05


def test_only_visual_embeddings_are_set_deterministically() -> None:
    codebook = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    plain, model, again = tiny_decoder(), tiny_decoder(), tiny_decoder()
    init_visual_embeddings(model, V.visual, codebook)
    init_visual_embeddings(again, V.visual, codebook)
    before, after = (m.model.embed_tokens.weight for m in (plain, model))
    assert torch.equal(before[: V.visual_start], after[: V.visual_start])
    assert torch.equal(after, again.model.embed_tokens.weight)
    assert abs(after[V.visual].square().mean().sqrt() - RMS) < 0.1 * RMS


def test_nearest_codes_exclude_the_code_itself() -> None:
    codebook = torch.tensor([[0.0], [1.0], [1.5], [10.0]])
    assert nearest_codes(codebook, 2).tolist() == [[1, 2], [2, 0], [1, 0], [2, 1]]
