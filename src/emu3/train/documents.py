"""Documents as the decoder learns from them, and their loss.

The loss of a batch is the weighted mean of its tokens' cross-entropies. The paper weighs vision
tokens 0.5 and text 1 (section 2.4); a weight of zero is a token that is only context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emu3.decoder.transformer import Transformer
from emu3.train.precision import products


@dataclass(frozen=True)
class Document:
    """Ids [L] int64, and how much predicting each of them counts [L] float32."""

    ids: Tensor
    weights: Tensor


def weigh(ids: Tensor, visual: slice, text_weight: float, vision_weight: float) -> Tensor:
    """Weights [L] of a document by modality: visual codes one, everything else the other."""
    is_visual = (ids >= visual.start) & (ids < visual.stop)
    return torch.where(is_visual, vision_weight, text_weight)


def losses(model: Transformer, documents: Sequence[Document], visual: slice) -> dict[str, Tensor]:
    """`loss`, to be minimised, and the plain mean cross-entropies of `text` and `vision` tokens."""
    ids = pad_sequence([d.ids for d in documents], batch_first=True).to(model.device)
    weights = pad_sequence([d.weights for d in documents], batch_first=True).to(model.device)
    counts = weights[:, 1:] > 0
    logits = model.logits(model.hidden(ids[:, :-1])[counts])  # of nothing that is only context
    targets, weights = ids[:, 1:][counts], weights[:, 1:][counts]
    entropy = F.cross_entropy(logits, targets, reduction="none")
    is_visual = (targets >= visual.start) & (targets < visual.stop)
    is_text = ~is_visual
    return {
        "loss": (entropy * weights).sum() / weights.sum(),
        "text": (entropy.detach() * is_text).sum() / is_text.sum().clamp_min(1),
        "vision": (entropy.detach() * is_visual).sum() / is_visual.sum().clamp_min(1),
    }


def accumulate(
    model: Transformer,
    documents: Sequence[Document],
    visual: slice,
    micro_batch: int,
    bf16: bool = False,
) -> dict[str, float]:
    """Add the gradients of one big batch, some documents at a time; returns what `losses` would.

    Documents of like length go together, so that little is padded. The loss is exactly that of the
    whole batch; `text` and `vision` are weighted like it, and so only nearly its means.
    """
    ordered = sorted(documents, key=lambda d: len(d.ids))
    total = sum(float(d.weights[1:].sum()) for d in ordered)
    means: dict[str, float] = {}
    for start in range(0, len(ordered), micro_batch):
        part = ordered[start : start + micro_batch]
        share = sum(float(d.weights[1:].sum()) for d in part) / total
        if share == 0:
            continue  # context only: nothing to learn from
        with products(model.device, bf16):
            values = losses(model, part, visual)
        (values["loss"] * share).backward()
        for name, value in values.items():
            means[name] = means.get(name, 0.0) + value.item() * share
    return means
