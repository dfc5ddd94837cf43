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
from emu3.training.adamw import BETAS, EPS, PlainAdamW
from emu3.training.checkpoints import Kept, Optimizer
from emu3.training.distributed import World
from emu3.training.flops import flops_per_id
from emu3.training.lm_loss import Document, accumulate
from emu3.training.optim import MuonAndAdamW
from emu3.training.trainer import Job, Learned, Run, train

NOT_HIDDEN = ("embed_tokens", "lm_head")  # tables of the vocabulary: AdamW moves them

Documents = Callable[[np.random.Generator], Sequence[Document]]
"""Randomness to the documents of one step, the same ones on every process.

Each takes its slice of them, so a sequence may wait until an item is asked for and read it then.
What has `state_dict` and `load_state_dict` has its position in the checkpoint.
"""


@dataclass(frozen=True, kw_only=True)
class DecoderTraining(Run):
    """Everything a run states."""

    micro_batch: int  # documents in one pass; gradients add up over a step's passes
    decay: float  # of hidden matrices (Muon), or of all matrices (AdamW)
    optimizer: Literal["muon", "adamw"] = "muon"  # muon: AdamW for embeddings, head and norms
    betas: tuple[float, float] = BETAS  # of "adamw"
    eps: float = EPS  # of "adamw"
    multiple: int = 1  # of ids, that the rows of a pass are padded to
    spike: float = 4.0  # next-token losses fall from log(vocabulary) and do not come back

    def __post_init__(self) -> None:
        """Refuse what no run could mean."""
        super().__post_init__()
        for name in ("micro_batch", "multiple"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}; it must be at least 1")
        if self.optimizer not in ("muon", "adamw"):
            raise InputError(f"optimizer = {self.optimizer!r}; it must be 'muon' or 'adamw'")


def fresh(config: DecoderConfig, seed: int) -> Transformer:
    """A decoder of this shape with random weights that belong to the seed."""
    torch.manual_seed(seed)
    model = Transformer(config)
    init_weights(model)
    return model


def train_decoder(
    model: Transformer,
    run: DecoderTraining,
    documents: Documents,
    visual: slice,
    folder: Path,
    *,
    on_save: Callable[[Transformer, int], None] = lambda model, step: None,
    world: World | None = None,
) -> Transformer:
    """Train what of the model requires a gradient, from where it is or from `folder`'s checkpoint.

    `visual` are the ids of codes. In a `world` of several processes each learns from its share of
    a step's documents. `on_save(model, step)` is called with the model in eval mode after every
    regular checkpoint, on every process. Returns the model in eval mode.
    Raises InputError on a run that cannot be; TrainingError and Stopped as `loop.train` does.
    """
    world = world or World.alone(model.device)
    optimizer = _optimizer(model, run)

    def gradients(rng: np.random.Generator, step: int) -> Learned:
        model.train()
        batch = documents(rng)
        if world.size > 1:  # each process its own dropout
            torch.manual_seed(torch.initial_seed() + (world.rank << 32))
        mine = world.share(batch)
        means = accumulate(model, mine, visual, run.micro_batch, run.bf16, world, run.multiple)
        return _learned(means, mine, model.config, world)

    kept: dict[str, Kept] = {"documents": documents} if isinstance(documents, Kept) else {}
    job = Job(model, optimizer, gradients, kept, lambda step: on_save(model.eval(), step))
    train(job, run, folder, world)
    return model.eval()


def _optimizer(model: Transformer, run: DecoderTraining) -> Optimizer:
    """What moves the weights of a run."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("no weight of the model requires a gradient; there is nothing to train")
    if run.optimizer == "adamw":
        return PlainAdamW(model.parameters(), run.decay, run.betas, run.eps)
    named = model.named_parameters()
    return MuonAndAdamW(named, decay=run.decay, adamw_only=NOT_HIDDEN, bf16=run.bf16)


def _learned(
    means: dict[str, float], mine: Sequence[Document], config: DecoderConfig, world: World
) -> Learned:
    """What the loop is told of a batch, of which a process has read no more than its share."""
    lengths = [length for each in mine for length in each.lengths]
    flops = sum(length * flops_per_id(config, length) for length in lengths)
    whose = f"process {world.rank}: " if world.size > 1 else ""
    words = f"{whose}{len(lengths)} documents of {min(lengths)} to {max(lengths)} ids"
    first = f"the first begins {mine[0].ids[:8].tolist()}"
    rows, ids = (int(world.total(count)) for count in (len(mine), sum(lengths)))
    return Learned(means, rows, ids, world.total(flops), f"{words}, {first}")
