"""Training sequences of the decoder, and their loss.

The loss of a batch is the weighted mean of its tokens' cross-entropies. The paper weights vision
tokens by 0.5 and text by 1 (section 2.4). A token of weight 0 is context only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence

from emu3.errors import InputError
from emu3.models.transformer import LMHead, Transformer
from emu3.training.cross_entropy import weighted_cross_entropy
from emu3.training.distributed import DistributedContext
from emu3.training.mixed_precision import autocast
from emu3.training.vocab_parallel import vocab_parallel_cross_entropy


@dataclass(frozen=True)
class TrainingSequence:
    """One document, or several packed into one sequence, with loss weights.

    Documents in a sequence do not attend to each other, and the first token of a document is not
    predicted. Raises InputError on lengths that do not match.

    Attributes:
        token_ids: targets [L], int64.
        loss_weights: weight of predicting each token [L], float32.
        document_lengths: lengths of the packed documents; empty for a single one.
        input_ids: what the model reads instead of `token_ids` [L], to train on corrupted input.
    """

    token_ids: Tensor
    loss_weights: Tensor
    document_lengths: tuple[int, ...] = ()
    input_ids: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the lengths."""
        length, documents = len(self.token_ids), self.document_lengths
        if self.input_ids is not None and len(self.input_ids) != length:
            raise InputError(f"{len(self.input_ids)} input ids for {length} token ids")
        if documents and (min(documents) < 1 or sum(documents) != length):
            raise InputError(f"document lengths {documents} do not add up to {length} token ids")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of each document, also of a single one."""
        return self.document_lengths or (len(self.token_ids),)

    @property
    def target_weights(self) -> Tensor:
        """Loss weights [L] with 0 for the first token of each document."""
        weights = self.loss_weights.clone()
        weights[[0, *accumulate(self.lengths[:-1])]] = 0.0
        return weights


def modality_loss_weights(
    token_ids: Tensor, visual: slice, text_weight: float, vision_weight: float
) -> Tensor:
    """Loss weights [L] of token ids [L]: one for visual tokens, one for all others.

    `visual` is the range of the token ids of visual codes.
    """
    is_visual = (token_ids >= visual.start) & (token_ids < visual.stop)
    return torch.where(is_visual, vision_weight, text_weight)


def lm_losses(
    model: Transformer,
    batch: Sequence[TrainingSequence],
    visual: slice,
    share: float = 1.0,
    pad_to_multiple_of: int = 1,
) -> dict[str, Tensor]:
    """Losses of some sequences.

    Args:
        model: the decoder.
        batch: sequences; padded on the right to a common length.
        visual: range of the token ids of visual codes.
        share: factor of the loss, if the sequences are a part of a larger batch.
        pad_to_multiple_of: of the length that the model reads.

    Returns:
        `loss`, the weighted mean cross-entropy times `share`, with gradients; `text_loss` and
        `vision_loss`, the plain means over tokens of nonzero weight.
    """
    ids = _pad([each.token_ids for each in batch], pad_to_multiple_of).to(model.device)
    weights = _pad([each.target_weights for each in batch], pad_to_multiple_of).to(model.device)
    inputs = _pad(
        [each.token_ids if each.input_ids is None else each.input_ids for each in batch],
        pad_to_multiple_of,
    ).to(model.device)
    counted = weights[:, 1:] != 0  # true for NaN as well, which must reach the loss
    hidden = model.forward_hidden(
        inputs[:, :-1], document_lengths=_attention_lengths(batch, ids.shape[1] - 1)
    )
    targets, weights = ids[:, 1:][counted], weights[:, 1:][counted]
    weights = weights * (share / weights.sum().clamp_min(torch.finfo(torch.float32).tiny))
    loss, entropy = _cross_entropy(model, hidden[counted], targets, weights)
    is_visual = (targets >= visual.start) & (targets < visual.stop)
    is_text = ~is_visual
    return {
        "loss": loss,
        "text_loss": (entropy * is_text).sum() / is_text.sum().clamp_min(1),
        "vision_loss": (entropy * is_visual).sum() / is_visual.sum().clamp_min(1),
    }


def _pad(rows: list[Tensor], multiple: int) -> Tensor:
    """Stack rows [L_i] to [B, L] with zeros, so that L - 1 is a multiple of `multiple`."""
    padded = pad_sequence(rows, batch_first=True)
    return F.pad(padded, (0, (1 - padded.shape[1]) % multiple))


def _attention_lengths(
    batch: Sequence[TrainingSequence], length: int
) -> list[tuple[int, ...]] | None:
    """For each row of `length` inputs, the lengths that attend within themselves only.

    None if causal masking suffices: every row is one document, followed by padding of weight 0.
    """
    if not any(each.document_lengths for each in batch):
        return None
    rows = []
    for each in batch:
        *first, last = each.lengths
        inputs = [*first, last - 1, length - len(each.token_ids) + 1]  # the last id is no input
        rows.append(tuple(part for part in inputs if part))
    return rows


def _cross_entropy(
    model: Transformer, hidden: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted sum of cross-entropies with gradients, and each of them [N] without."""
    head: nn.Module = model.lm_head
    if isinstance(head, LMHead) and isinstance(head.weight, DTensor):
        return vocab_parallel_cross_entropy(hidden, head.weight, targets, weights)
    if isinstance(head, LMHead):
        return weighted_cross_entropy(hidden, head.weight, targets, weights)
    # Another head has no weight matrix to use directly: compute all logits at once.
    entropy = F.cross_entropy(model.compute_logits(hidden), targets, reduction="none")
    return (entropy * weights).sum(), entropy.detach()


def accumulate_gradients(
    model: Transformer,
    batch: Sequence[TrainingSequence],
    visual: slice,
    micro_batch_size: int,
    bf16: bool = False,
    distributed: DistributedContext | None = None,
    pad_to_multiple_of: int = 1,
) -> dict[str, float]:
    """Add the gradients of a batch, in micro-batches; returns the losses as `lm_losses`.

    `batch` is this rank's part of the batch. The loss is exactly that of the whole batch;
    `text_loss` and `vision_loss` are averaged with the same weights and so are approximate.
    Sequences of similar length share a micro-batch, which saves padding.

    Raises InputError if a rank has no sequence.
    """
    distributed = distributed or DistributedContext.single_process()
    if distributed.any(not batch):
        raise InputError(
            f"a batch needs at least one sequence for each of {distributed.world_size} processes"
        )
    by_length = sorted(batch, key=lambda each: len(each.token_ids))
    starts = range(0, len(by_length), micro_batch_size)
    parts = [by_length[start : start + micro_batch_size] for start in starts]
    part_weights = [sum(float(each.target_weights.sum()) for each in part) for part in parts]
    # FSDP gathers weights on all ranks together, so all ranks need the same number of passes.
    missing = int(distributed.max(len(parts))) - len(parts)
    parts += [by_length[:1]] * missing
    part_weights += [0.0] * missing
    total = distributed.sum(sum(part_weights))
    means = dict.fromkeys(("loss", "text_loss", "vision_loss"), 0.0)
    for part, weight in zip(parts, part_weights, strict=True):
        if weight == 0 and distributed.world_size == 1:
            continue  # context only
        share = weight / total if total else 0.0
        with autocast(model.device, bf16):
            # FSDP averages gradients over ranks, where their sum is wanted.
            values = lm_losses(
                model, part, visual, share * distributed.world_size, pad_to_multiple_of
            )
        values["loss"].backward()
        means["loss"] += values["loss"].item() / distributed.world_size
        for name in ("text_loss", "vision_loss"):
            means[name] += values[name].item() * share
    return {name: distributed.sum(value) for name, value in means.items()}
