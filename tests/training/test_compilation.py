"""Compiled blocks give the losses and gradients of eager mode."""

from __future__ import annotations

import pytest
import torch

from emu3.models.transformer import Transformer
from emu3.testing import tiny_decoder
from emu3.training.compilation import PAD_MULTIPLE, compile_blocks
from emu3.training.distributed import apply_activation_checkpointing
from emu3.training.lm_loss import TrainingSequence, accumulate_gradients
from tests.training.test_lm_loss import VISUAL, documents


def gradients(
    model: Transformer, batch: list[TrainingSequence], multiple: int = 1
) -> list[torch.Tensor]:
    """The loss of a step, then its gradients."""
    model.zero_grad()
    loss = accumulate_gradients(model, batch, VISUAL, 2, pad_to_multiple_of=multiple)["loss"]
    found = [parameter.grad for parameter in model.parameters()]
    return [torch.tensor(loss), *(each.clone() for each in found if each is not None)]


def packed(lengths: list[tuple[int, ...]]) -> list[TrainingSequence]:
    """Sequences packed from documents of these lengths."""
    rows = documents([sum(parts) for parts in lengths])
    return [
        TrainingSequence(row.token_ids, row.loss_weights, parts)
        for row, parts in zip(rows, lengths, strict=True)
    ]


BATCHES = {
    "unpacked": documents([5, 17, 9, 16]),
    "packed": packed([(5, 9, 3), (17,), (4, 12), (1, 1, 15)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_compiled_equals_eager(batch: list[TrainingSequence], checkpointed: bool) -> None:
    """With sequences padded to one length, which is compiled once."""
    model = tiny_decoder()
    expected = gradients(model, batch)
    compile_blocks(model)
    if checkpointed:
        apply_activation_checkpointing(model)
    for found, wanted in zip(gradients(model, batch, 3 * PAD_MULTIPLE), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)


def test_other_document_lengths_do_not_recompile() -> None:
    model = tiny_decoder()
    compile_blocks(model)
    gradients(model, packed([(5, 9, 3)]), 24)
    with torch._dynamo.config.patch(error_on_recompile=True):
        gradients(model, packed([(2, 2, 2, 7)]), 24)
        with pytest.raises(Exception, match=r"[Rr]ecompil"):
            gradients(model, packed([(20, 8)]), 24)  # a longer sequence does recompile


def test_passes_with_a_cache_are_eager() -> None:
    model, ids = tiny_decoder(), torch.arange(6)[None]
    expected = model(ids, model.new_cache(1, 6))
    compile_blocks(model)
    with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
        cache = model.new_cache(1, 6)
        pieces = [model(ids[:, at : at + 1], cache) for at in range(6)]
    torch.testing.assert_close(torch.cat(pieces, 1), expected, atol=1e-5, rtol=1e-3)
