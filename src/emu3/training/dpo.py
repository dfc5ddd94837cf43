"""Direct preference optimisation: of two pictures for one prompt, the better gets likelier.

    loss = -log sigmoid(beta * margin) + next_token * cross-entropy of the chosen
    margin = (log p(chosen) - log p(rejected)) of the model, less the same of the reference

The reference is the model that training started from; its log-probabilities are computed once and
stay with the pairs, so only one model is in memory. Only codes count: line ends and what closes a
picture were dictated by the document_format, not drawn.

Sources: Rafailov et al. 2023 (arXiv 2305.18290, equation 7); Emu3's paper (post-training) adds the
next-token loss and stores the drawn ids, which are never encoded again from pixels. It gives
neither beta nor the weight of that loss: both defaults are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from emu3.errors import InputError
from emu3.models.transformer import Transformer
from emu3.training.distributed import DistributedContext
from emu3.training.flops import flops_per_token
from emu3.training.mixed_precision import autocast
from emu3.training.optimizers import BETAS, EPS, build_adamw
from emu3.training.trainer import StepResult, TrainingConfig, TrainingTask, train

CHUNK = 512  # codes whose logits are in memory at a time: 0.4 GB with the published vocabulary


@dataclass(frozen=True)
class PreferencePair:
    """Ids of a prompt [P], and of two pictures drawn for it [C] and [R], all int64.

    `reference` are the reference's log-probabilities of the two, None until they are known.
    """

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    reference_log_probs: tuple[float, float] | None = None


@dataclass(frozen=True)
class DPOLossConfig:
    """How strongly to prefer; both numbers are undisclosed by BAAI and ours."""

    beta: float = 0.1  # nats of margin count this much; larger keeps nearer to the reference
    next_token_weight: float = 1.0  # weight of the chosen picture's mean cross-entropy

    def __post_init__(self) -> None:
        """Raise InputError on numbers that prefer nothing."""
        if not self.beta > 0 or not self.next_token_weight >= 0:
            raise InputError(f"{self}: beta must be above 0, next_token 0 or more")


def sequence_log_probs(
    model: Transformer, rows: Sequence[tuple[Tensor, Tensor]], visual: slice
) -> tuple[Tensor, Tensor]:
    """Log-probability of each picture given its prompt, and how many codes it has: [B] and [B].

    `rows` are (prompt [P], picture [L]); `visual` are the ids of codes. Over the full vocabulary,
    as in training. Raises InputError on a picture without codes.
    """
    ids = pad_sequence([torch.cat(row) for row in rows], batch_first=True).to(model.device)
    counted = (ids[:, 1:] >= visual.start) & (ids[:, 1:] < visual.stop)
    for row, (prompt, _) in enumerate(rows):
        counted[row, : len(prompt) - 1] = False  # a picture in the prompt is context
    counts = counted.sum(1)
    if not bool(counts.all()):
        raise InputError("a picture of a pair has no codes; pairs are made of drawn pictures")
    hidden = model.forward_hidden(ids[:, :-1])[counted]
    found = torch.cat(
        [
            checkpoint(_likelihoods, model, *part, use_reentrant=False)
            for part in zip(hidden.split(CHUNK), ids[:, 1:][counted].split(CHUNK), strict=True)
        ]
    )
    owner = torch.arange(len(rows), device=ids.device).repeat_interleave(counts)
    return found.new_zeros(len(rows)).index_add(0, owner, found), counts


def _likelihoods(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities [n] of targets [n] after hidden states [n, hidden]."""
    return -F.cross_entropy(model.compute_logits(hidden), targets, reduction="none")


@torch.no_grad()
def add_reference_log_probs(
    model: Transformer,
    pairs: Sequence[PreferencePair],
    visual: slice,
    micro_batch: int = 8,
    bf16: bool = False,
) -> list[PreferencePair]:
    """The same pairs with what this model, dropout off, thinks of them now."""
    known: list[PreferencePair] = []
    model.eval()
    for part in _parts(pairs, micro_batch):
        with autocast(model.device, bf16):
            found, _ = sequence_log_probs(model, _rows(part), visual)
        both = found.view(2, -1).T.tolist()
        known += [
            replace(pair, reference_log_probs=(c, r))
            for pair, (c, r) in zip(part, both, strict=True)
        ]
    return known


def dpo_losses(
    model: Transformer, pairs: Sequence[PreferencePair], visual: slice, preference: DPOLossConfig
) -> dict[str, Tensor]:
    """`loss`, to be minimised, and its parts, each a mean over pairs.

    `preference` is the first term and `next_token` the chosen picture's cross-entropy a code;
    `margin` is in nats, `right` the share of pairs whose margin is above zero.
    Raises InputError on a pair without its reference.
    """
    if any(pair.reference_log_probs is None for pair in pairs):
        raise InputError("a pair has no reference; call with_reference before training")
    found, counts = sequence_log_probs(model, _rows(pairs), visual)
    known = torch.tensor([pair.reference_log_probs for pair in pairs], device=found.device).T
    chosen, rejected = (found.view(2, -1) - known).unbind()
    margin = chosen - rejected
    preferred = -F.logsigmoid(preference.beta * margin).mean()
    next_token = (-found / counts)[: len(pairs)].mean()
    return {
        "loss": preferred + preference.next_token_weight * next_token,
        "preference": preferred.detach(),
        "next_token": next_token.detach(),
        "margin": margin.detach().mean(),
        "right": (margin.detach() > 0).float().mean(),
    }


def accumulate_pair_gradients(
    model: Transformer,
    pairs: Sequence[PreferencePair],
    visual: slice,
    preference: DPOLossConfig,
    micro_batch: int,
    bf16: bool = False,
    world: DistributedContext | None = None,
) -> dict[str, float]:
    """Add the gradients of one big batch, some pairs at a time; returns what `losses` would.

    Each process of a `world` brings its share of the batch. Dropout is off, as it was for the
    reference: its noise, summed over thousands of codes, would drown the margin.
    Raises InputError where a process has no pair.
    """
    world = world or DistributedContext.single_process()
    if world.any(not pairs):
        raise InputError(f"a step needs at least a pair for each of {world.size} processes")
    model.eval()
    total = world.sum(len(pairs))
    parts = [(part, len(part) / total) for part in _parts(pairs, micro_batch)]
    # All processes gather weights together, so all make as many passes: some for nothing.
    parts += [(pairs[:1], 0.0)] * (int(world.max(len(parts))) - len(parts))
    means: dict[str, float] = {}
    for part, share in parts:
        with autocast(model.device, bf16):
            values = dpo_losses(model, part, visual, preference)
        # Several processes take the mean of their gradients, where the sum is meant.
        (values["loss"] * (share * world.size)).backward()
        for name, value in values.items():
            means[name] = means.get(name, 0.0) + value.item() * share
    return {name: world.sum(value) for name, value in means.items()}


@dataclass(frozen=True, kw_only=True)
class DPOTrainingConfig(TrainingConfig):
    """Everything a run states."""

    batch_size: int  # pairs a step
    micro_batch_size: int  # pairs in one pass, two rows each
    weight_decay: float
    loss: DPOLossConfig = field(default_factory=DPOLossConfig)
    betas: tuple[float, float] = BETAS
    eps: float = EPS


def train_dpo(
    model: Transformer,
    run: DPOTrainingConfig,
    pairs: Sequence[PreferencePair],
    visual: slice,
    folder: Path,
    *,
    on_save: Callable[[Transformer, int], None] = lambda model, step: None,
    world: DistributedContext | None = None,
) -> Transformer:
    """Train what of the model requires a gradient, from where it is or from `folder`'s checkpoint.

    `pairs` have their reference; a step draws `run.batch` of them, of which each process of a
    `world` takes its share. Returns the model in eval mode. Raises InputError without pairs or
    weights to train, and as `loop.train` does.
    """
    world = world or DistributedContext.single_process(model.device)
    if not pairs:
        raise InputError("no pairs; draw more pictures a request, or ask for a smaller margin")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("no weight requires a gradient; call model.requires_grad_(True)")
    optimizer = build_adamw(model.parameters(), run.weight_decay, run.betas, run.eps)

    def gradients(rng: np.random.Generator, step: int) -> StepResult:
        chosen = rng.permutation(len(pairs))[: run.batch_size]
        batch = [pairs[index] for index in chosen]
        mine, how = world.shard(batch), run.loss
        values = accumulate_pair_gradients(
            model, mine, visual, how, run.micro_batch_size, run.bf16, world
        )
        lengths = [len(prompt) + len(drawn) for prompt, drawn in _rows(batch)]
        flops = sum(length * flops_per_token(model.config, length) for length in lengths)
        return StepResult(values, len(batch), sum(lengths), flops, f"pairs {chosen[:8].tolist()}")

    job = TrainingTask(model, optimizer, gradients, {}, lambda step: on_save(model.eval(), step))
    train(job, run, folder, world)
    return model.eval()


def _rows(pairs: Sequence[PreferencePair]) -> list[tuple[Tensor, Tensor]]:
    """All chosen, then all rejected, each with its prompt."""
    chosen = [(pair.prompt, pair.chosen) for pair in pairs]
    return chosen + [(pair.prompt, pair.rejected) for pair in pairs]


def _parts(pairs: Sequence[PreferencePair], size: int) -> Iterator[Sequence[PreferencePair]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
