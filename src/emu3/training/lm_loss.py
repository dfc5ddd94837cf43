"""Documents as the decoder learns from them, and their loss.

The loss of a batch is the weighted mean of its tokens' cross-entropies. The paper weighs vision
tokens 0.5 and text 1 (section 2.4); a weight of zero is a token that is only context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate as running_sum

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
    """Ids [L] int64, and how much predicting each of them counts [L] float32.

    A row may be packed from several documents, whose lengths are its `parts`; none stands for one.
    No part sees another, and none foresees the first id of the next. `read` [L] is what the model
    reads instead of the ids that it has to predict, where some of it is to be wrong.
    """

    token_ids: Tensor
    loss_weights: Tensor
    document_lengths: tuple[int, ...] = ()
    input_ids: Tensor | None = None

    def __post_init__(self) -> None:
        """Raise InputError on parts that do not fill the row, and on less read than predicted."""
        if self.input_ids is not None and len(self.input_ids) != len(self.token_ids):
            raise InputError(
                f"{len(self.input_ids)} ids read do not stand for {len(self.token_ids)}"
            )
        if self.document_lengths and (
            min(self.document_lengths) < 1 or sum(self.document_lengths) != len(self.token_ids)
        ):
            raise InputError(
                f"parts {self.document_lengths} do not fill a row of {len(self.token_ids)} ids"
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the documents in the row."""
        return self.document_lengths or (len(self.token_ids),)

    @property
    def target_weights(self) -> Tensor:
        """The weights as the loss takes them: the first id of a part is nothing to foresee."""
        weights = self.loss_weights.clone()
        weights[[0, *running_sum(self.lengths[:-1])]] = 0.0
        return weights


def modality_loss_weights(
    ids: Tensor, visual: slice, text_weight: float, vision_weight: float
) -> Tensor:
    """Weights [L] of a document by modality: visual codes one, everything else the other."""
    is_visual = (ids >= visual.start) & (ids < visual.stop)
    return torch.where(is_visual, vision_weight, text_weight)


def lm_losses(
    model: Transformer,
    documents: Sequence[TrainingSequence],
    visual: slice,
    share: float = 1.0,
    multiple: int = 1,
) -> dict[str, Tensor]:
    """`loss`, to be minimised, and the plain mean cross-entropies of `text` and `vision` tokens.

    `share` is how much of a batch these documents are; the loss is as much of their weighted mean.
    The model reads rows of a `multiple` of so many ids.
    """
    ids = _padded([d.token_ids for d in documents], multiple).to(model.device)
    weights = _padded([d.target_weights for d in documents], multiple).to(model.device)
    read = _padded(
        [d.token_ids if d.input_ids is None else d.input_ids for d in documents], multiple
    )
    counts = weights[:, 1:] != 0  # what is not a number counts, too: it must be seen
    hidden = model.forward_hidden(
        read[:, :-1].to(model.device), document_lengths=_parts(documents, ids.shape[1] - 1)
    )
    targets, weights = ids[:, 1:][counts], weights[:, 1:][counts]
    weights = weights * (share / weights.sum().clamp_min(torch.finfo(torch.float32).tiny))
    loss, entropy = _entropy(model, hidden[counts], targets, weights)
    is_visual = (targets >= visual.start) & (targets < visual.stop)
    is_text = ~is_visual
    return {
        "loss": loss,
        "text": (entropy * is_text).sum() / is_text.sum().clamp_min(1),
        "vision": (entropy * is_visual).sum() / is_visual.sum().clamp_min(1),
    }


def _padded(rows: list[Tensor], multiple: int) -> Tensor:
    """Rows of any length as one tensor [B, L], of which L - 1 is a multiple."""
    together = pad_sequence(rows, batch_first=True)
    return F.pad(together, (0, (1 - together.shape[1]) % multiple))


def _parts(documents: Sequence[TrainingSequence], length: int) -> list[tuple[int, ...]] | None:
    """The lengths that each row of `length` ids falls into, padding among them."""
    if not any(document.document_lengths for document in documents):
        return None  # causal as it is: what follows a document is padding, which counts nothing
    rows = []
    for document in documents:
        *whole, last = document.lengths
        inputs = [*whole, last - 1, length - len(document.token_ids) + 1]  # the last id is no input
        rows.append(tuple(part for part in inputs if part))
    return rows


def _entropy(
    model: Transformer, hidden: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted sum of cross-entropies, and each of them without its history."""
    head: nn.Module = model.lm_head
    if isinstance(head, LMHead) and isinstance(head.weight, DTensor):
        return vocab_parallel_cross_entropy(hidden, head.weight, targets, weights)
    if isinstance(head, LMHead):
        return weighted_cross_entropy(hidden, head.weight, targets, weights)
    # A head with an adapter on it: all logits at once.
    entropy = F.cross_entropy(model.compute_logits(hidden), targets, reduction="none")
    return (entropy * weights).sum(), entropy.detach()


def accumulate_gradients(
    model: Transformer,
    documents: Sequence[TrainingSequence],
    visual: slice,
    micro_batch: int,
    bf16: bool = False,
    world: DistributedContext | None = None,
    multiple: int = 1,
) -> dict[str, float]:
    """Add the gradients of one big batch, some documents at a time; returns what `losses` would.

    Documents of like length go together, so that little is padded. The loss is exactly that of the
    whole batch, of which each process of a `world` has a share; `text` and `vision` are weighted
    like it, and so only nearly its means. Raises InputError where a process has no document.
    """
    world = world or DistributedContext.single_process()
    if world.any(not documents):
        raise InputError(f"a step needs at least a document for each of {world.size} processes")
    ordered = sorted(documents, key=lambda d: len(d.token_ids))
    parts = [ordered[at : at + micro_batch] for at in range(0, len(ordered), micro_batch)]
    # All processes gather weights together, so all make as many passes: some for nothing.
    parts += [ordered[:1]] * (int(world.max(len(parts))) - len(parts))
    real = -(-len(ordered) // micro_batch)
    worths = [sum(float(d.target_weights.sum()) for d in part) for part in parts[:real]]
    worths += [0.0] * (len(parts) - real)
    total = world.sum(sum(worths))
    means = dict.fromkeys(("loss", "text", "vision"), 0.0)
    for part, worth in zip(parts, worths, strict=True):
        if worth == 0 and world.size == 1:
            continue  # context only: nothing to learn from
        share = worth / total if total else 0.0  # context alone on all processes
        with autocast(model.device, bf16):
            # Several processes take the mean of their gradients, where the sum is meant.
            values = lm_losses(model, part, visual, share * world.size, multiple)
        values["loss"].backward()
        means["loss"] += values["loss"].item() / world.size
        for name in ("text", "vision"):
            means[name] += values[name].item() * share
    return {name: world.sum(value) for name, value in means.items()}
