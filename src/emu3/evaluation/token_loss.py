"""Next-token loss of a decoder on a prepared data set, by the role of the token.

The figures are comparable between checkpoints of one vocabulary, and, for vision tokens, between
checkpoints that share the vision tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emu3.data.dataset import TokenDataset
from emu3.data.token_roles import ANSWER, ROLE_NAMES, TEXT, VISION
from emu3.errors import InputError
from emu3.models.transformer import Transformer
from emu3.progress import count_progress

ROLES = (TEXT, VISION, ANSWER)
"""Roles that count. Context tokens are read only."""

BATCH_TOKENS = 8192  # tokens of a forward pass, padding included, unless one document has more
LOGITS_AT_ONCE = 256  # tokens; float32 logits of the published vocabulary are 0.7 MB each


@dataclass(frozen=True)
class RoleLoss:
    """`tokens` of a role, and their mean cross-entropy in nats over the whole vocabulary."""

    tokens: int
    loss: float

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(self.loss)

    def to_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return {**asdict(self), "perplexity": self.perplexity}


@dataclass(frozen=True)
class TokenLossReport:
    """`documents` were measured; `too_long` were left out, since the context cannot hold them."""

    documents: int
    too_long: int
    roles: dict[str, RoleLoss]

    def to_dict(self) -> dict[str, object]:
        """What JSON can hold."""
        roles = {name: loss.to_dict() for name, loss in self.roles.items()}
        return {"documents": self.documents, "too_long": self.too_long, "roles": roles}

    def table(self) -> Table:
        """One row per role that occurs."""
        table = Table(title=f"token loss: {self.documents} documents")
        table.add_column("role")
        for name in ("tokens", "nats per token", "perplexity"):
            table.add_column(name, justify="right")
        for name, role in self.roles.items():
            table.add_row(name, f"{role.tokens:,}", f"{role.loss:.4f}", f"{role.perplexity:,.2f}")
        return table


@torch.inference_mode()
def evaluate_token_loss(
    decoder: Transformer, dataset: TokenDataset, limit: int | None = None
) -> TokenLossReport:
    """Measure the first `limit` documents of a data set (all of them by default).

    Every document is read from its start with teacher forcing, and no document attends to another.
    Raises InputError on a limit below 1, on a data set without documents, and if no document fits
    into the context.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} must be at least 1")
    if not len(dataset):
        raise InputError(f"{dataset.folder}: the data set has no documents")
    context = decoder.config.max_position_embeddings
    lengths = dataset.lengths[:limit].tolist()
    fitting = [number for number, length in enumerate(lengths) if length <= context]
    if not fitting:
        raise InputError(f"{dataset.folder}: no document fits into the context of {context} tokens")
    sums, counts = torch.zeros(len(ROLE_NAMES), dtype=torch.float64), [0] * len(ROLE_NAMES)
    with count_progress("measuring token loss", len(fitting)) as advance:
        for numbers in _batches(fitting, lengths):
            documents = [dataset[number] for number in numbers]
            roles = pad_sequence([d.roles.long() for d in documents], batch_first=True)
            losses = token_losses(decoder, [d.ids for d in documents])
            for role in ROLES:
                chosen = roles[:, 1:] == role
                sums[role] += losses[chosen].double().sum()
                counts[role] += int(chosen.sum())
            advance(len(numbers))
    found = {
        ROLE_NAMES[role]: RoleLoss(counts[role], float(sums[role]) / counts[role])
        for role in ROLES
        if counts[role]
    }
    return TokenLossReport(len(fitting), len(lengths) - len(fitting), found)


def token_losses(decoder: Transformer, documents: Sequence[Tensor]) -> Tensor:
    """Cross-entropies in nats of token ids [L] of some documents: float32 [B, max L - 1], on the
    CPU.

    The value at position i belongs to token i + 1. Values behind the end of a document mean
    nothing.
    """
    ids = pad_sequence(list(documents), batch_first=True).to(decoder.device)
    # Padding follows the documents, so the causal mask keeps it from being attended to.
    hidden = decoder.forward_hidden(ids[:, :-1]).flatten(0, 1)
    targets = ids[:, 1:].flatten()
    parts = zip(hidden.split(LOGITS_AT_ONCE), targets.split(LOGITS_AT_ONCE), strict=True)
    losses = [
        F.cross_entropy(decoder.compute_logits(part), target, reduction="none")
        for part, target in parts
    ]
    return torch.cat(losses).view(len(ids), -1).cpu()


def _batches(numbers: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Documents of similar length together, so that little is padded."""
    batch: list[int] = []
    for number in sorted(numbers, key=lambda each: lengths[each]):
        if batch and (len(batch) + 1) * lengths[number] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    yield batch
