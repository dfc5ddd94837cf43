"""Direct preference optimization (DPO) on pairs of images for one prompt.

    loss = -log sigmoid(beta * margin) + next_token_weight * cross-entropy of the chosen image
    margin = (log p(chosen) - log p(rejected)) of the model, minus the same of the reference model

The reference model is the one that training starts from. Its log-probabilities are computed once
and stored with the pairs, so only one model is in memory. Only visual tokens count: line ends and
the tokens that close an image follow from the document format.

Sources: Rafailov et al. 2023 (arXiv 2305.18290, equation 7). The Emu3 paper (post-training) adds
the next-token loss and trains on the token ids as they were sampled. It gives neither beta nor the
weight of the next-token loss; both defaults are ours.
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

CHUNK_SIZE = 512  # tokens whose logits are in memory: 0.4 GB with the published vocabulary


@dataclass(frozen=True)
class PreferencePair:
    """Token ids of a prompt [P] and of two images generated for it, [C] and [R]; int64.

    `reference_log_probs` are the reference model's log-probabilities of the chosen and the rejected
    image, None until `add_reference_log_probs` computes them.
    """

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    reference_log_probs: tuple[float, float] | None = None


@dataclass(frozen=True)
class DPOLossConfig:
    """Weights of the two loss terms. Raises InputError on values outside their range."""

    beta: float = 0.1  # a larger value keeps the model closer to the reference
    next_token_weight: float = 1.0  # of the chosen image's mean cross-entropy

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.beta > 0 or not self.next_token_weight >= 0:
            raise InputError(f"{self}: beta must be above 0, next_token_weight at least 0")


@dataclass(frozen=True, kw_only=True)
class DPOTrainingConfig(TrainingConfig):
    """Settings of a DPO run."""

    batch_size: int  # pairs in a step
    micro_batch_size: int  # pairs in one forward pass, which has two sequences for each
    weight_decay: float
    loss: DPOLossConfig = field(default_factory=DPOLossConfig)
    betas: tuple[float, float] = BETAS
    eps: float = EPS


def sequence_log_probs(
    model: Transformer, rows: Sequence[tuple[Tensor, Tensor]], visual: slice
) -> tuple[Tensor, Tensor]:
    """Log-probability of each image given its prompt, over the full vocabulary.

    Args:
        model: the decoder.
        rows: token ids of (prompt [P], image [L]).
        visual: range of the token ids of visual codes.

    Returns:
        Log-probabilities [B] and numbers of visual tokens [B].

    Raises:
        InputError: on an image without visual tokens.
    """
    ids = pad_sequence([torch.cat(row) for row in rows], batch_first=True).to(model.device)
    counted = (ids[:, 1:] >= visual.start) & (ids[:, 1:] < visual.stop)
    for row, (prompt, _) in enumerate(rows):
        counted[row, : len(prompt) - 1] = False  # an image in the prompt is context
    counts = counted.sum(1)
    if not bool(counts.all()):
        raise InputError("an image of a pair has no visual tokens; pairs need generated images")
    hidden = model.forward_hidden(ids[:, :-1])[counted]
    log_probs = torch.cat(
        [
            checkpoint(_log_probs, model, *chunk, use_reentrant=False)
            for chunk in zip(
                hidden.split(CHUNK_SIZE), ids[:, 1:][counted].split(CHUNK_SIZE), strict=True
            )
        ]
    )
    row_of = torch.arange(len(rows), device=ids.device).repeat_interleave(counts)
    return log_probs.new_zeros(len(rows)).index_add(0, row_of, log_probs), counts


def _log_probs(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities [n] of targets [n] after hidden states [n, hidden]."""
    return -F.cross_entropy(model.compute_logits(hidden), targets, reduction="none")


@torch.no_grad()
def add_reference_log_probs(
    model: Transformer,
    pairs: Sequence[PreferencePair],
    visual: slice,
    micro_batch_size: int = 8,
    bf16: bool = False,
) -> list[PreferencePair]:
    """The pairs with the log-probabilities of this model as the reference; dropout is off."""
    done: list[PreferencePair] = []
    model.eval()
    for part in _micro_batches(pairs, micro_batch_size):
        with autocast(model.device, bf16):
            log_probs, _ = sequence_log_probs(model, _rows(part), visual)
        for pair, (chosen, rejected) in zip(part, log_probs.view(2, -1).T.tolist(), strict=True):
            done.append(replace(pair, reference_log_probs=(chosen, rejected)))
    return done


def dpo_losses(
    model: Transformer, pairs: Sequence[PreferencePair], visual: slice, config: DPOLossConfig
) -> dict[str, Tensor]:
    """The loss of some pairs and its parts, each a mean over pairs.

    Returns:
        `loss` with gradients; `preference_loss` and `next_token_loss` (a token), its terms;
        `margin` in nats; `accuracy`, the share of pairs with a margin above zero.

    Raises:
        InputError: on a pair without reference log-probabilities.
    """
    if any(pair.reference_log_probs is None for pair in pairs):
        raise InputError("a pair has no reference log-probabilities; call add_reference_log_probs")
    log_probs, counts = sequence_log_probs(model, _rows(pairs), visual)
    reference = torch.tensor([pair.reference_log_probs for pair in pairs], device=log_probs.device)
    chosen, rejected = (log_probs.view(2, -1) - reference.T).unbind()
    margin = chosen - rejected
    preference_loss = -F.logsigmoid(config.beta * margin).mean()
    next_token_loss = (-log_probs / counts)[: len(pairs)].mean()
    return {
        "loss": preference_loss + config.next_token_weight * next_token_loss,
        "preference_loss": preference_loss.detach(),
        "next_token_loss": next_token_loss.detach(),
        "margin": margin.detach().mean(),
        "accuracy": (margin.detach() > 0).float().mean(),
    }


def accumulate_pair_gradients(
    model: Transformer,
    pairs: Sequence[PreferencePair],
    visual: slice,
    config: DPOLossConfig,
    micro_batch_size: int,
    bf16: bool = False,
    distributed: DistributedContext | None = None,
) -> dict[str, float]:
    """Add the gradients of a batch, in micro-batches; returns the values of `dpo_losses`.

    `pairs` is this rank's part of the batch. Dropout is off, as it was for the reference: its
    noise, summed over thousands of tokens, would exceed the margin.

    Raises InputError if a rank has no pair.
    """
    distributed = distributed or DistributedContext.single_process()
    if distributed.any(not pairs):
        raise InputError(
            f"a batch needs at least one pair for each of {distributed.world_size} processes"
        )
    model.eval()
    total = distributed.sum(len(pairs))
    parts = [(part, len(part) / total) for part in _micro_batches(pairs, micro_batch_size)]
    # FSDP gathers weights on all ranks together, so all ranks need the same number of passes.
    parts += [(pairs[:1], 0.0)] * (int(distributed.max(len(parts))) - len(parts))
    means: dict[str, float] = {}
    for part, share in parts:
        with autocast(model.device, bf16):
            values = dpo_losses(model, part, visual, config)
        # FSDP averages gradients over ranks, where their sum is wanted.
        (values["loss"] * (share * distributed.world_size)).backward()
        for name, value in values.items():
            means[name] = means.get(name, 0.0) + value.item() * share
    return {name: distributed.sum(value) for name, value in means.items()}


def train_dpo(
    model: Transformer,
    config: DPOTrainingConfig,
    pairs: Sequence[PreferencePair],
    visual: slice,
    folder: Path,
    *,
    on_save: Callable[[Transformer, int], None] = lambda model, step: None,
    distributed: DistributedContext | None = None,
) -> Transformer:
    """Train the parameters that require a gradient, from `folder`'s checkpoint if there is one.

    Args:
        model: the decoder, changed in place.
        config: the settings.
        pairs: all pairs, with reference log-probabilities; a step draws `config.batch_size`.
        visual: range of the token ids of visual codes.
        folder: folder of the run.
        on_save: called with the model in eval mode and the number of steps after every regular
            checkpoint.
        distributed: the ranks that share each batch; a single process by default.

    Returns:
        The model, in eval mode.

    Raises:
        InputError: without pairs, and if nothing is trainable.
        TrainingError, TrainingInterrupted: as `trainer.train`.
    """
    distributed = distributed or DistributedContext.single_process(model.device)
    if not pairs:
        raise InputError("no pairs; sample more images for each prompt, or lower the margin")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("no parameter requires a gradient; call model.requires_grad_(True)")
    optimizer = build_adamw(model.parameters(), config.weight_decay, config.betas, config.eps)

    def forward_backward(rng: np.random.Generator, step: int) -> StepResult:
        chosen = rng.permutation(len(pairs))[: config.batch_size]
        batch = [pairs[index] for index in chosen]
        values = accumulate_pair_gradients(
            model,
            distributed.shard(batch),
            visual,
            config.loss,
            config.micro_batch_size,
            config.bf16,
            distributed,
        )
        lengths = [len(prompt) + len(image) for prompt, image in _rows(batch)]
        flops = sum(length * flops_per_token(model.config, length) for length in lengths)
        return StepResult(values, len(batch), sum(lengths), flops, f"pairs {chosen[:8].tolist()}")

    task = TrainingTask(
        model, optimizer, forward_backward, {}, lambda step: on_save(model.eval(), step)
    )
    train(task, config, folder, distributed)
    return model.eval()


def _rows(pairs: Sequence[PreferencePair]) -> list[tuple[Tensor, Tensor]]:
    """(prompt, image) of all chosen images, then of all rejected ones."""
    chosen = [(pair.prompt, pair.chosen) for pair in pairs]
    return chosen + [(pair.prompt, pair.rejected) for pair in pairs]


def _micro_batches(
    pairs: Sequence[PreferencePair], size: int
) -> Iterator[Sequence[PreferencePair]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
