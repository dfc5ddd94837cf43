"""Presets: every number of each training stage of the paper, and where the number comes from.

    pre-training 1 and 2  ->  quality tuning  ->  DPO                  (image generation)
                          ->  understanding   ->  instruction tuning   (vision-language)

A `Preset` states a stage; `run.py` runs one on prepared data. Numbers come from three sources: the
paper (arXiv 2409.18869, sections on pre- and post-training), BAAI's published fine-tuning script
(`scripts/t2i_sft.sh` of baaivision/Emu3), and ours. BAAI disclosed no batch sizes, numbers of
steps, data mixtures, or optimizer of pre-training; for these our values are a starting point.
`Preset.source` returns the source of a field, and the model card lists it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from emu3.data.token_roles import ANSWER, CONTEXT, TEXT, VISION
from emu3.errors import InputError
from emu3.training.decoder import DecoderTrainingConfig
from emu3.training.lr_schedule import LRSchedule

Source = Literal["paper", "script", "ours"]

SIDE_512, SIDE_720, SIDE_1024 = 512 * 512, 720 * 720, 1024 * 1024  # image areas in pixels


@dataclass(frozen=True)
class LossWeights:
    """Loss weight of a token id by its role; 0 is context only.

    Raises InputError on a negative weight, and if all are 0.
    """

    text: float
    vision: float
    answer: float
    context: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.by_role) < 0 or not any(self.by_role):
            raise InputError(f"{self}: weights must be at least 0, and one of them above 0")

    @property
    def by_role(self) -> list[float]:
        """The weight of each role, in the order of role numbers."""
        named = {CONTEXT: self.context, TEXT: self.text, VISION: self.vision, ANSWER: self.answer}
        return [named[role] for role in sorted(named)]


@dataclass(frozen=True)
class Preset:
    """All settings of a training stage except its data.

    Raises InputError if a source is given for an unknown field.
    """

    name: str
    starts_from: str  # name of the stage whose weights it starts from; "" for random weights
    loss_weights: LossWeights
    context_length: int  # maximum tokens of a sequence; sequences are packed
    image_areas: tuple[int, int]  # smallest and largest, in pixels
    learning_rate: float  # peak
    final_learning_rate: float
    schedule: LRSchedule
    optimizer: Literal["muon", "adamw"]
    warmup_steps: int
    steps: int
    batch_size: int  # sequences in a step
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    max_grad_norm: float
    dropout: float
    caption_dropout: float  # probability that a caption is left out, for classifier-free guidance
    from_paper: tuple[str, ...] = ()  # fields whose value is from the paper
    from_script: tuple[str, ...] = ()  # fields whose value is from BAAI's script

    def __post_init__(self) -> None:
        """Check the names of the fields with a source."""
        known = {field.name for field in fields(self)}
        if unknown := {*self.from_paper, *self.from_script} - known:
            raise InputError(f"{self.name}: sources for unknown fields {sorted(unknown)}")

    def source(self, field: str) -> Source:
        """The source of a field's value."""
        if field in self.from_paper:
            return "paper"
        return "script" if field in self.from_script else "ours"

    def override(self, **values: Any) -> Preset:
        """The preset with other values; the source of a changed field becomes "ours".

        Raises InputError on an unknown field.
        """
        if unknown := values.keys() - {field.name for field in fields(self)}:
            raise InputError(f"{self.name}: a preset has no fields {sorted(unknown)}")
        changed = {name for name, value in values.items() if value != getattr(self, name)}
        return replace(
            self,
            **values,
            from_paper=tuple(name for name in self.from_paper if name not in changed),
            from_script=tuple(name for name in self.from_script if name not in changed),
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
        """The settings for `train_decoder`.

        They do not contain dropout, which belongs to the model's config, and the batch size, which
        the caller's `BatchFn` determines.
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
    name="pre-training on text and images",
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
    dropout=0.1,  # in four places of BAAI's modeling_emu3.py
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
    name="pre-training with video",
    starts_from=PRETRAINING_1.name,
    context_length=131_072,
    steps=20_000,
    batch_size=40,  # about as many tokens a step as the first stage
)

QUALITY = replace(
    PRETRAINING_2,
    name="quality tuning",
    starts_from=PRETRAINING_2.name,
    loss_weights=LossWeights(text=0.0, vision=1.0, answer=0.0),
    context_length=10_240,  # an image of 720x720 is 8,200 tokens
    image_areas=(SIDE_512, SIDE_720),  # the paper raises it during the stage
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
    name="image understanding",
    starts_from=PRETRAINING_2.name,
    loss_weights=LossWeights(text=1.0, vision=0.0, answer=1.0),
    context_length=10_240,
    image_areas=(SIDE_512, SIDE_512),
    learning_rate=1e-5,
    warmup_steps=30,
    steps=10_000,
    batch_size=256,
    caption_dropout=0.0,  # classifier-free guidance applies to image generation only
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
    context_length=20_480,  # an image of 1024x1024 is 16,600 tokens
    image_areas=(SIDE_512, SIDE_1024),  # native sizes, clamped to this range
    from_paper=("starts_from", "image_areas"),
    from_script=tuple(name for name in UNDERSTANDING.from_script if name != "context_length"),
)

DPO = replace(
    QUALITY,
    name="direct preference optimization",
    starts_from=QUALITY.name,
    image_areas=(SIDE_720, SIDE_720),
    learning_rate=1e-6,
    steps=2_000,
    batch_size=64,  # pairs
    dropout=0.0,  # its noise would exceed the margin; see dpo.py
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
"""The stages at the published size, which we have never run at that size."""


def _at_nano(preset: Preset, learning_rate: float, steps: int, batch_size: int) -> Preset:
    """The same stage for the demo model nano, on images of 8x8 codes, with our own numbers."""
    return replace(
        preset,
        optimizer="muon",
        context_length=1_024,
        image_areas=(64 * 64, 64 * 64),
        learning_rate=learning_rate,
        warmup_steps=20,
        steps=steps,
        batch_size=batch_size,
        max_grad_norm=1.0,
        weight_decay=0.01,
        dropout=0.0,  # every image is seen about once
        from_paper=tuple(
            name
            for name in preset.from_paper
            if name not in ("context_length", "image_areas", "learning_rate")
        ),
        from_script=tuple(name for name in preset.from_script if name == "eps"),
    )


NANO_PRETRAINING = _at_nano(PRETRAINING_1, 4e-3, steps=3_600, batch_size=6)
NANO_QUALITY = _at_nano(QUALITY, 4e-4, steps=300, batch_size=4)
NANO_INSTRUCTION = _at_nano(INSTRUCTION, 4e-4, steps=450, batch_size=4)
NANO_DPO = replace(
    _at_nano(DPO, 2e-5, steps=100, batch_size=16),
    optimizer="adamw",  # Muon's steps do not shrink with the gradient
)

NANO_PRESETS = (NANO_PRETRAINING, NANO_QUALITY, NANO_INSTRUCTION, NANO_DPO)
"""The stages at the size of the demo model nano, for a laptop."""

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
"""Presets of `emu3 train`. DPO trains on preference pairs and is run from Python (`dpo.py`)."""
