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
from emu3.training.decoder import DecoderTrainingConfig
from emu3.training.lm_loss import TrainingSequence
from emu3.training.lr_schedule import LRSchedule

Source = Literal["paper", "script", "ours"]

SIDE_512, SIDE_720, SIDE_1024 = 512 * 512, 720 * 720, 1024 * 1024  # areas, in pixels


@dataclass(frozen=True)
class LossWeights:
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


def sequence_from_pack(pack: PackedRow, weights: LossWeights) -> TrainingSequence:
    """A pack as a document to learn from: each role its weight, the packed parts kept apart.

    The first id of a part has nothing before it to be predicted from, so it counts 0.
    """
    chosen = torch.tensor(weights.by_role, dtype=torch.float32)[pack.roles.long()]
    starts = torch.tensor([0, *pack.lengths[:-1]]).cumsum(0)
    chosen[starts] = 0.0
    return TrainingSequence(pack.ids, chosen, tuple(pack.lengths))


@dataclass(frozen=True)
class Preset:
    """Everything that a stage decides; what it is trained on is the recipe's."""

    name: str
    starts_from: str  # the stage whose weights it goes on from; "" is from scratch
    loss_weights: LossWeights
    context_length: int  # ids of a row at most; rows are packed full
    image_areas: tuple[int, int]  # of pictures in pixels, smallest and largest
    learning_rate: float
    final_learning_rate: float  # where the schedule ends
    schedule: LRSchedule
    optimizer: Literal["muon", "adamw"]
    warmup_steps: int  # steps
    steps: int
    batch_size: int  # rows a step
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    max_grad_norm: float
    dropout: float
    caption_dropout: float  # share of captions left out, for guidance
    from_paper: tuple[str, ...] = ()  # fields whose value the paper gives
    from_script: tuple[str, ...] = ()  # fields whose value is the script's

    def __post_init__(self) -> None:
        """Raise InputError on a source given for a field that is not there."""
        known = {field.name for field in fields(self)}
        if unknown := {*self.from_paper, *self.from_script} - known:
            raise InputError(f"{self.name}: sources for {sorted(unknown)}, which are no fields")

    def source(self, field: str) -> Source:
        """Where a field's value is from."""
        if field in self.from_paper:
            return "paper"
        return "script" if field in self.from_script else "ours"

    def override(self, **values: Any) -> Preset:
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
            from_paper=tuple(name for name in self.from_paper if name not in ours),
            from_script=tuple(name for name in self.from_script if name not in ours),
        )

    def training_config(
        self,
        *,
        micro_batch_size: int,
        bf16: bool,
        report_every: int,
        save_every: int,
        seed: int,
        pad_to_multiple_of: int = 1,
    ) -> DecoderTrainingConfig:
        """What `train_decoder` is told; what is asked for here changes no arithmetic but `bf16`.

        Dropout is part of a model's config, and the batch is the recipe's to draw.
        """
        return DecoderTrainingConfig(
            steps=self.steps,
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            max_grad_norm=self.max_grad_norm,
            weight_decay=self.weight_decay,
            optimizer=self.optimizer,
            betas=self.betas,
            eps=self.eps,
            micro_batch_size=micro_batch_size,
            pad_to_multiple_of=pad_to_multiple_of,
            bf16=bf16,
            report_every=report_every,
            save_every=save_every,
            seed=seed,
        )


_SCRIPT = (
    "optimizer",
    "betas",
    "eps",
    "weight_decay",
    "max_grad_norm",
    "warmup_steps",
    "caption_dropout",
)

PRETRAINING_1 = Preset(
    name="pre-training, text and pictures",
    starts_from="",
    loss_weights=LossWeights(text=1.0, vision=0.5, answer=1.0),
    context_length=5_120,
    image_areas=(SIDE_512, SIDE_512),
    learning_rate=5e-5,
    final_learning_rate=0.0,
    schedule="cosine",
    optimizer="adamw",
    warmup_steps=1_000,
    steps=200_000,
    batch_size=1_024,
    betas=(0.9, 0.95),
    eps=1e-6,
    weight_decay=0.1,
    max_grad_norm=5.0,
    dropout=0.1,  # in four places; published as code, in modeling_emu3.py
    caption_dropout=0.05,
    from_paper=(
        "starts_from",
        "loss_weights",
        "context_length",
        "image_areas",
        "learning_rate",
        "final_learning_rate",
        "schedule",
    ),
    from_script=(
        "optimizer",
        "betas",
        "eps",
        "weight_decay",
        "max_grad_norm",
        "caption_dropout",
        "dropout",
    ),
)

PRETRAINING_2 = replace(
    PRETRAINING_1,
    name="pre-training, with video",
    starts_from=PRETRAINING_1.name,
    context_length=131_072,
    steps=20_000,
    batch_size=40,  # as many ids a step as the first stage
)

QUALITY = replace(
    PRETRAINING_2,
    name="quality tuning",
    starts_from=PRETRAINING_2.name,
    loss_weights=LossWeights(text=0.0, vision=1.0, answer=0.0),
    context_length=10_240,  # of the script: a picture of 720 by 720 is 8,200 ids
    image_areas=(SIDE_512, SIDE_720),  # rising from the one to the other
    learning_rate=1e-5,
    schedule="linear",
    warmup_steps=30,
    steps=5_000,
    batch_size=256,
    from_paper=("starts_from", "loss_weights", "image_areas", "final_learning_rate", "schedule"),
    from_script=(*_SCRIPT, "context_length", "learning_rate", "dropout"),
)

UNDERSTANDING = replace(
    PRETRAINING_2,
    name="pictures to text",
    starts_from=PRETRAINING_2.name,
    loss_weights=LossWeights(text=1.0, vision=0.0, answer=1.0),
    context_length=10_240,
    image_areas=(SIDE_512, SIDE_512),
    learning_rate=1e-5,
    warmup_steps=30,
    steps=10_000,
    batch_size=256,
    caption_dropout=0.0,  # guidance is for drawing
    from_paper=("starts_from", "loss_weights", "image_areas"),
    from_script=(
        "optimizer",
        "betas",
        "eps",
        "weight_decay",
        "max_grad_norm",
        "warmup_steps",
        "context_length",
        "learning_rate",
        "dropout",
    ),
)

INSTRUCTION = replace(
    UNDERSTANDING,
    name="instruction tuning",
    starts_from=UNDERSTANDING.name,
    loss_weights=LossWeights(text=0.0, vision=0.0, answer=1.0),
    context_length=20_480,  # a picture of 1024 by 1024 is 16,600 ids
    image_areas=(SIDE_512, SIDE_1024),  # native sizes between these, others clamped
    from_paper=("starts_from", "image_areas"),
    from_script=tuple(name for name in UNDERSTANDING.from_script if name != "context_length"),
)

DPO = replace(
    QUALITY,
    name="preferences",
    starts_from=QUALITY.name,
    image_areas=(SIDE_720, SIDE_720),
    learning_rate=1e-6,
    steps=2_000,
    batch_size=64,  # pairs
    dropout=0.0,  # or its noise drowns the margin; see dpo.py
    caption_dropout=0.0,
    from_paper=("starts_from", "image_areas"),
    from_script=(
        "optimizer",
        "betas",
        "eps",
        "weight_decay",
        "max_grad_norm",
        "warmup_steps",
        "context_length",
    ),
)

BAAI_PRESETS = (PRETRAINING_1, PRETRAINING_2, QUALITY, UNDERSTANDING, INSTRUCTION, DPO)
"""The stages at the published size. We never ran them at that size."""


def _at_nano(stage: Preset, learning_rate: float, steps: int, batch: int) -> Preset:
    """The same stage on pictures of 64 codes; every number that is not the paper's is ours."""
    return replace(
        stage,
        optimizer="muon",
        context_length=1_024,
        image_areas=(64 * 64, 64 * 64),
        learning_rate=learning_rate,
        warmup_steps=20,
        steps=steps,
        batch_size=batch,
        max_grad_norm=1.0,
        weight_decay=0.01,
        dropout=0.0,  # every picture is seen about once
        from_paper=tuple(
            name
            for name in stage.from_paper
            if name not in ("context_length", "image_areas", "learning_rate")
        ),
        from_script=tuple(name for name in stage.from_script if name == "eps"),
    )


NANO_PRETRAINING = _at_nano(PRETRAINING_1, 4e-3, steps=3_600, batch=6)
NANO_QUALITY = _at_nano(QUALITY, 4e-4, steps=300, batch=4)
NANO_INSTRUCTION = _at_nano(INSTRUCTION, 4e-4, steps=450, batch=4)
NANO_DPO = replace(
    _at_nano(DPO, 2e-5, steps=100, batch=16),
    optimizer="adamw",  # small steps near the reference; Muon's are all of one size
)

NANO_PRESETS = (NANO_PRETRAINING, NANO_QUALITY, NANO_INSTRUCTION, NANO_DPO)
"""The stages that nano goes through on a laptop."""

PRESETS_BY_NAME = {
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
