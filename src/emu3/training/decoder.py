"""Training of the decoder: next-token prediction on batches of training sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.distributed.checkpoint.stateful import Stateful

from emu3.config import DecoderConfig
from emu3.errors import InputError
from emu3.models.transformer import Transformer, init_weights
from emu3.training.distributed import DistributedContext
from emu3.training.flops import flops_per_token
from emu3.training.lm_loss import TrainingSequence, accumulate_gradients
from emu3.training.optimizers import (
    BETAS,
    EPS,
    OptimizerContainer,
    build_adamw,
    build_muon_and_adamw,
)
from emu3.training.trainer import StepResult, TrainingConfig, TrainingTask, train

ADAMW_ONLY = ("embed_tokens", "lm_head")  # not hidden matrices: Muon does not apply

BatchFn = Callable[[np.random.Generator], Sequence[TrainingSequence]]
"""Draws the batch of one step, the same on every rank.

Each rank takes a slice of it, so a sequence may read its items when they are indexed. An object
with `state_dict` and `load_state_dict` has its position saved in checkpoints.
"""


@dataclass(frozen=True, kw_only=True)
class DecoderTrainingConfig(TrainingConfig):
    """Settings of a decoder training run. Raises InputError on values outside their range."""

    micro_batch_size: int  # sequences in one forward pass; gradients are accumulated
    weight_decay: float  # of hidden matrices with Muon, of all matrices with AdamW
    optimizer: Literal["muon", "adamw"] = "muon"  # muon: AdamW for embeddings, head and norms
    betas: tuple[float, float] = BETAS  # of "adamw"
    eps: float = EPS  # of "adamw"
    pad_to_multiple_of: int = 1  # of the sequence length in a pass
    loss_spike_factor: float = 4.0  # a healthy next-token loss only falls from log(vocabulary)

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        for name in ("micro_batch_size", "pad_to_multiple_of"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.optimizer not in ("muon", "adamw"):
            raise InputError(f"optimizer is {self.optimizer!r}; it must be 'muon' or 'adamw'")


def init_decoder(config: DecoderConfig, seed: int) -> Transformer:
    """A decoder with random weights, determined by the seed."""
    torch.manual_seed(seed)
    model = Transformer(config)
    init_weights(model)
    return model


def train_decoder(
    model: Transformer,
    config: DecoderTrainingConfig,
    batches: BatchFn,
    visual: slice,
    folder: Path,
    *,
    on_save: Callable[[Transformer, int], None] = lambda model, step: None,
    distributed: DistributedContext | None = None,
) -> Transformer:
    """Train the parameters that require a gradient, from `folder`'s checkpoint if there is one.

    Args:
        model: the decoder, changed in place; sharded by `shard_model` if there are many ranks.
        config: the settings.
        batches: draws the batch of a step.
        visual: range of the token ids of visual codes.
        folder: folder of the run.
        on_save: called with the model in eval mode and the number of steps after every regular
            checkpoint, on every rank.
        distributed: the ranks that share each batch; a single process by default.

    Returns:
        The model, in eval mode.

    Raises:
        InputError: if nothing is trainable.
        TrainingError, TrainingInterrupted: as `trainer.train`.
    """
    distributed = distributed or DistributedContext.single_process(model.device)
    optimizer = _build_optimizer(model, config)

    def forward_backward(rng: np.random.Generator, step: int) -> StepResult:
        model.train()
        batch = batches(rng)
        if distributed.world_size > 1:  # different dropout masks on each rank
            torch.manual_seed(torch.initial_seed() + (distributed.rank << 32))
        local = distributed.shard(batch)
        losses = accumulate_gradients(
            model,
            local,
            visual,
            config.micro_batch_size,
            config.bf16,
            distributed,
            config.pad_to_multiple_of,
        )
        return _step_result(losses, local, model.config, distributed)

    extras: dict[str, Stateful] = {"batches": batches} if isinstance(batches, Stateful) else {}
    task = TrainingTask(
        model, optimizer, forward_backward, extras, lambda step: on_save(model.eval(), step)
    )
    train(task, config, folder, distributed)
    return model.eval()


def _build_optimizer(model: Transformer, config: DecoderTrainingConfig) -> OptimizerContainer:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("no parameter of the model requires a gradient; nothing to train")
    if config.optimizer == "adamw":
        return build_adamw(model.parameters(), config.weight_decay, config.betas, config.eps)
    return build_muon_and_adamw(
        model.named_parameters(),
        weight_decay=config.weight_decay,
        adamw_only=ADAMW_ONLY,
        bf16=config.bf16,
    )


def _step_result(
    losses: dict[str, float],
    local: Sequence[TrainingSequence],
    config: DecoderConfig,
    distributed: DistributedContext,
) -> StepResult:
    """Counts over all ranks, and a description of this rank's part of the batch."""
    lengths = [length for each in local for length in each.lengths]
    flops = sum(length * flops_per_token(config, length) for length in lengths)
    description = (
        f"{len(lengths)} documents of {min(lengths)} to {max(lengths)} tokens, "
        f"first token ids {local[0].token_ids[:8].tolist()}"
    )
    if distributed.world_size > 1:
        description = f"rank {distributed.rank}: {description}"
    return StepResult(
        losses,
        samples=int(distributed.sum(len(local))),
        tokens=int(distributed.sum(sum(lengths))),
        flops=distributed.sum(flops),
        description=description,
    )
