"""Training the decoder: next-token prediction on documents, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from emu3.config import DecoderConfig
from emu3.errors import InputError
from emu3.models.transformer import Transformer, init_weights
from emu3.training.checkpointing import Stateful
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

ADAMW_ONLY = ("embed_tokens", "lm_head")  # tables of the vocabulary: AdamW moves them

BatchFn = Callable[[np.random.Generator], Sequence[TrainingSequence]]
"""Randomness to the documents of one step, the same ones on every process.

Each takes its slice of them, so a sequence may wait until an item is asked for and read it then.
What has `state_dict` and `load_state_dict` has its position in the checkpoint.
"""


@dataclass(frozen=True, kw_only=True)
class DecoderTrainingConfig(TrainingConfig):
    """Everything a run states."""

    micro_batch_size: int  # documents in one pass; gradients add up over a step's passes
    weight_decay: float  # of hidden matrices (Muon), or of all matrices (AdamW)
    optimizer: Literal["muon", "adamw"] = "muon"  # muon: AdamW for embeddings, head and norms
    betas: tuple[float, float] = BETAS  # of "adamw"
    eps: float = EPS  # of "adamw"
    pad_to_multiple_of: int = 1  # of ids, that the rows of a pass are padded to
    loss_spike_factor: float = (
        4.0  # next-token losses fall from log(vocabulary) and do not come back
    )

    def __post_init__(self) -> None:
        """Refuse what no run could mean."""
        super().__post_init__()
        for name in ("micro_batch_size", "pad_to_multiple_of"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}; it must be at least 1")
        if self.optimizer not in ("muon", "adamw"):
            raise InputError(f"optimizer = {self.optimizer!r}; it must be 'muon' or 'adamw'")


def init_decoder(config: DecoderConfig, seed: int) -> Transformer:
    """A decoder of this shape with random weights that belong to the seed."""
    torch.manual_seed(seed)
    model = Transformer(config)
    init_weights(model)
    return model


def train_decoder(
    model: Transformer,
    run: DecoderTrainingConfig,
    documents: BatchFn,
    visual: slice,
    folder: Path,
    *,
    on_save: Callable[[Transformer, int], None] = lambda model, step: None,
    world: DistributedContext | None = None,
) -> Transformer:
    """Train what of the model requires a gradient, from where it is or from `folder`'s checkpoint.

    `visual` are the ids of codes. In a `world` of several processes each learns from its share of
    a step's documents. `on_save(model, step)` is called with the model in eval mode after every
    regular checkpoint, on every process. Returns the model in eval mode.
    Raises InputError on a run that cannot be; TrainingError and Stopped as `loop.train` does.
    """
    world = world or DistributedContext.single_process(model.device)
    optimizer = _optimizer(model, run)

    def gradients(rng: np.random.Generator, step: int) -> StepResult:
        model.train()
        batch = documents(rng)
        if world.size > 1:  # each process its own dropout
            torch.manual_seed(torch.initial_seed() + (world.rank << 32))
        mine = world.shard(batch)
        means = accumulate_gradients(
            model, mine, visual, run.micro_batch_size, run.bf16, world, run.pad_to_multiple_of
        )
        return _learned(means, mine, model.config, world)

    kept: dict[str, Stateful] = {"documents": documents} if isinstance(documents, Stateful) else {}
    job = TrainingTask(model, optimizer, gradients, kept, lambda step: on_save(model.eval(), step))
    train(job, run, folder, world)
    return model.eval()


def _optimizer(model: Transformer, run: DecoderTrainingConfig) -> OptimizerContainer:
    """What moves the weights of a run."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("no weight of the model requires a gradient; there is nothing to train")
    if run.optimizer == "adamw":
        return build_adamw(model.parameters(), run.weight_decay, run.betas, run.eps)
    named = model.named_parameters()
    return build_muon_and_adamw(
        named, weight_decay=run.weight_decay, adamw_only=ADAMW_ONLY, bf16=run.bf16
    )


def _learned(
    means: dict[str, float],
    mine: Sequence[TrainingSequence],
    config: DecoderConfig,
    world: DistributedContext,
) -> StepResult:
    """What the loop is told of a batch, of which a process has read no more than its share."""
    lengths = [length for each in mine for length in each.lengths]
    flops = sum(length * flops_per_token(config, length) for length in lengths)
    whose = f"process {world.rank}: " if world.size > 1 else ""
    words = f"{whose}{len(lengths)} documents of {min(lengths)} to {max(lengths)} ids"
    first = f"the first begins {mine[0].token_ids[:8].tolist()}"
    rows, ids = (int(world.sum(count)) for count in (len(mine), sum(lengths)))
    return StepResult(means, rows, ids, world.sum(flops), f"{words}, {first}")
