"""The stages of the paper, each a preset that states everything, and where each number is from.

    pre-training 1 and 2  →  quality tuning  →  preferences      draws
                          →  understanding   →  instruction      answers

Three kinds of numbers: of the paper (arXiv 2409.18869, sections on pre- and post-training), of
BAAI's published fine-tuning script (`scripts/t2i_sft.sh` of baaivision/Emu3), and ours. BAAI
disclosed no batch, no number of steps, no mixture, and no optimizer of pre-training: there ours
stand, as a place to start. `Stage.source` tells which is which, and the model card prints it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from emu3.data.packing import PackedRow
from emu3.data.token_roles import ANSWER, CONTEXT, TEXT, VISION
from emu3.errors import InputError
from emu3.training.decoder import DecoderTraining
from emu3.training.lm_loss import Document
from emu3.training.lr_schedule import Shape

Source = Literal["paper", "script", "ours"]

SIDE_512, SIDE_720, SIDE_1024 = 512 * 512, 720 * 720, 1024 * 1024  # areas, in pixels


@dataclass(frozen=True)
class Weights:
    """How much predicting an id counts, by its role; 0 is context only."""

    text: float
    vision: float
    answer: float
    context: float = 0.0

    def __post_init__(self) -> None:
        """Raise InputError where nothing is learnt, or something is unlearnt."""
        if min(self.by_role) < 0 or not any(self.by_role):
            raise InputError(f"{self}: weights are 0 or more, and one of them is above 0")

    @property
    def by_role(self) -> list[float]:
        """The weight of each role, in the order of their numbers."""
        named = {CONTEXT: self.context, TEXT: self.text, VISION: self.vision, ANSWER: self.answer}
        return [named[role] for role in sorted(named)]


def weighed(pack: PackedRow, weights: Weights) -> Document:
    """A pack as a document to learn from: each role its weight, the packed parts kept apart.

    The first id of a part has nothing before it to be predicted from, so it counts 0.
    """
    chosen = torch.tensor(weights.by_role, dtype=torch.float32)[pack.roles.long()]
    starts = torch.tensor([0, *pack.lengths[:-1]]).cumsum(0)
    chosen[starts] = 0.0
    return Document(pack.ids, chosen, tuple(pack.lengths))


@dataclass(frozen=True)
class Stage:
    """Everything that a stage decides; what it is trained on is the recipe's."""

    name: str
    starts_from: str  # the stage whose weights it goes on from; "" is from scratch
    weights: Weights
    context: int  # ids of a row at most; rows are packed full
    areas: tuple[int, int]  # of pictures in pixels, smallest and largest
    learning_rate: float
    final_rate: float  # where the schedule ends
    schedule: Shape
    optimizer: Literal["muon", "adamw"]
    warmup: int  # steps
    steps: int
    batch: int  # rows a step
    betas: tuple[float, float]
    eps: float
    decay: float
    clip: float
    dropout: float
    dropped_captions: float  # share of captions left out, for guidance
    paper: tuple[str, ...] = ()  # fields whose value the paper gives
    script: tuple[str, ...] = ()  # fields whose value is the script's

    def __post_init__(self) -> None:
        """Raise InputError on a source given for a field that is not there."""
        known = {field.name for field in fields(self)}
        if unknown := {*self.paper, *self.script} - known:
            raise InputError(f"{self.name}: sources for {sorted(unknown)}, which are no fields")

    def source(self, field: str) -> Source:
        """Where a field's value is from."""
        if field in self.paper:
            return "paper"
        return "script" if field in self.script else "ours"

    def changed(self, **values: Any) -> Stage:
        """The stage with other values of some fields; those are ours then.

        Raises InputError on a field that is not there.
        """
        if unknown := values.keys() - {field.name for field in fields(self)}:
            raise InputError(f"{self.name}: no fields of a stage: {sorted(unknown)}")
        kept = {name for name, value in values.items() if value == getattr(self, name)}
        ours = values.keys() - kept
        return replace(
            self,
            **values,
            paper=tuple(name for name in self.paper if name not in ours),
            script=tuple(name for name in self.script if name not in ours),
        )

    def training(
        self,
        *,
        micro_batch: int,
        bf16: bool,
        report_every: int,
        save_every: int,
        seed: int,
        multiple: int = 1,
    ) -> DecoderTraining:
        """What `train_decoder` is told; what is asked for here changes no arithmetic but `bf16`.

        Dropout is part of a model's config, and the batch is the recipe's to draw.
        """
        return DecoderTraining(
            steps=self.steps,
            learning_rate=self.learning_rate,
            final_rate=self.final_rate,
            schedule=self.schedule,
            warmup=self.warmup,
            clip=self.clip,
            decay=self.decay,
            optimizer=self.optimizer,
            betas=self.betas,
            eps=self.eps,
            micro_batch=micro_batch,
            multiple=multiple,
            bf16=bf16,
            report_every=report_every,
            save_every=save_every,
            seed=seed,
        )


_SCRIPT = ("optimizer", "betas", "eps", "decay", "clip", "warmup", "dropped_captions")

PRETRAINING_1 = Stage(
    name="pre-training, text and pictures",
    starts_from="",
    weights=Weights(text=1.0, vision=0.5, answer=1.0),
    context=5_120,
    areas=(SIDE_512, SIDE_512),
    learning_rate=5e-5,
    final_rate=0.0,
    schedule="cosine",
    optimizer="adamw",
    warmup=1_000,
    steps=200_000,
    batch=1_024,
    betas=(0.9, 0.95),
    eps=1e-6,
    decay=0.1,
    clip=5.0,
    dropout=0.1,  # in four places; published as code, in modeling_emu3.py
    dropped_captions=0.05,
    paper=(
        "starts_from",
        "weights",
        "context",
        "areas",
        "learning_rate",
        "final_rate",
        "schedule",
    ),
    script=("optimizer", "betas", "eps", "decay", "clip", "dropped_captions", "dropout"),
)

PRETRAINING_2 = replace(
    PRETRAINING_1,
    name="pre-training, with video",
    starts_from=PRETRAINING_1.name,
    context=131_072,
    steps=20_000,
    batch=40,  # as many ids a step as the first stage
)

QUALITY = replace(
    PRETRAINING_2,
    name="quality tuning",
    starts_from=PRETRAINING_2.name,
    weights=Weights(text=0.0, vision=1.0, answer=0.0),
    context=10_240,  # of the script: a picture of 720 by 720 is 8,200 ids
    areas=(SIDE_512, SIDE_720),  # rising from the one to the other
    learning_rate=1e-5,
    schedule="linear",
    warmup=30,
    steps=5_000,
    batch=256,
    paper=("starts_from", "weights", "areas", "final_rate", "schedule"),
    script=(*_SCRIPT, "context", "learning_rate", "dropout"),
)

UNDERSTANDING = replace(
    PRETRAINING_2,
    name="pictures to text",
    starts_from=PRETRAINING_2.name,
    weights=Weights(text=1.0, vision=0.0, answer=1.0),
    context=10_240,
    areas=(SIDE_512, SIDE_512),
    learning_rate=1e-5,
    warmup=30,
    steps=10_000,
    batch=256,
    dropped_captions=0.0,  # guidance is for drawing
    paper=("starts_from", "weights", "areas"),
    script=(
        "optimizer",
        "betas",
        "eps",
        "decay",
        "clip",
        "warmup",
        "context",
        "learning_rate",
        "dropout",
    ),
)

INSTRUCTION = replace(
    UNDERSTANDING,
    name="instruction tuning",
    starts_from=UNDERSTANDING.name,
    weights=Weights(text=0.0, vision=0.0, answer=1.0),
    context=20_480,  # a picture of 1024 by 1024 is 16,600 ids
    areas=(SIDE_512, SIDE_1024),  # native sizes between these, others clamped
    paper=("starts_from", "areas"),
    script=tuple(name for name in UNDERSTANDING.script if name != "context"),
)

PREFERENCES = replace(
    QUALITY,
    name="preferences",
    starts_from=QUALITY.name,
    areas=(SIDE_720, SIDE_720),
    learning_rate=1e-6,
    steps=2_000,
    batch=64,  # pairs
    dropout=0.0,  # or its noise drowns the margin; see dpo.py
    dropped_captions=0.0,
    paper=("starts_from", "areas"),
    script=("optimizer", "betas", "eps", "decay", "clip", "warmup", "context"),
)

BAAI = (PRETRAINING_1, PRETRAINING_2, QUALITY, UNDERSTANDING, INSTRUCTION, PREFERENCES)
"""The stages at the published size. We never ran them at that size."""


def _at_nano(stage: Stage, learning_rate: float, steps: int, batch: int) -> Stage:
    """The same stage on pictures of 64 codes; every number that is not the paper's is ours."""
    return replace(
        stage,
        optimizer="muon",
        context=1_024,
        areas=(64 * 64, 64 * 64),
        learning_rate=learning_rate,
        warmup=20,
        steps=steps,
        batch=batch,
        clip=1.0,
        decay=0.01,
        dropout=0.0,  # every picture is seen about once
        paper=tuple(
            name for name in stage.paper if name not in ("context", "areas", "learning_rate")
        ),
        script=tuple(name for name in stage.script if name == "eps"),
    )


NANO_PRETRAINING = _at_nano(PRETRAINING_1, 4e-3, steps=3_600, batch=6)
NANO_QUALITY = _at_nano(QUALITY, 4e-4, steps=300, batch=4)
NANO_INSTRUCTION = _at_nano(INSTRUCTION, 4e-4, steps=450, batch=4)
NANO_PREFERENCES = replace(
    _at_nano(PREFERENCES, 2e-5, steps=100, batch=16),
    optimizer="adamw",  # small steps near the reference; Muon's are all of one size
)

NANO = (NANO_PRETRAINING, NANO_QUALITY, NANO_INSTRUCTION, NANO_PREFERENCES)
"""The stages that nano goes through on a laptop."""

BY_NAME = {
    "pretrain-1": PRETRAINING_1,
    "pretrain-2": PRETRAINING_2,
    "quality": QUALITY,
    "understand": UNDERSTANDING,
    "instruct": INSTRUCTION,
    "nano-pretrain": NANO_PRETRAINING,
    "nano-quality": NANO_QUALITY,
    "nano-instruct": NANO_INSTRUCTION,
}
"""The stages that learn from documents, as `emu3 train` calls them; preferences are pairs."""
