"""Presets: loss weights by role, published numbers and their sources."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from emu3.data.packing import PackedRow
from emu3.data.token_roles import ANSWER, CONTEXT, TEXT, VISION
from emu3.errors import InputError
from emu3.processing.document_format import DocumentFormat
from emu3.training.batches import to_training_sequence
from emu3.training.presets import (
    BAAI_PRESETS,
    DPO,
    INSTRUCTION,
    NANO_PRESETS,
    PRETRAINING_1,
    PRETRAINING_2,
    QUALITY,
    UNDERSTANDING,
    LossWeights,
    Preset,
)

ROLES = [TEXT, TEXT, VISION, CONTEXT, CONTEXT, VISION, ANSWER, ANSWER]


def packed_row(lengths: tuple[int, ...] = (8,)) -> PackedRow:
    return PackedRow(torch.arange(8), torch.tensor(ROLES, dtype=torch.uint8), lengths)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (PRETRAINING_1, [0, 1, 0.5, 0, 0, 0.5, 1, 1]),
        (QUALITY, [0, 0, 1, 0, 0, 1, 0, 0]),
        (UNDERSTANDING, [0, 1, 0, 0, 0, 0, 1, 1]),
        (INSTRUCTION, [0, 0, 0, 0, 0, 0, 1, 1]),
    ],
)
def test_loss_weights_of_each_preset(preset: Preset, expected: list[float]) -> None:
    sequence = to_training_sequence(packed_row(), preset.loss_weights)
    assert sequence.loss_weights.tolist() == expected
    assert sequence.loss_weights.dtype == torch.float32
    assert sequence.token_ids.tolist() == list(range(8))
    assert sequence.document_lengths == (8,)


def test_first_token_of_each_document_is_no_target() -> None:
    sequence = to_training_sequence(
        packed_row((3, 1, 4)), LossWeights(text=1, vision=1, answer=1, context=1)
    )
    assert sequence.loss_weights.tolist() == [0, 1, 1, 0, 0, 1, 1, 1]
    assert sequence.document_lengths == (3, 1, 4)


def test_numbers_of_the_paper_and_the_script() -> None:
    """The numbers are repeated here from the sources, independently of the presets."""
    for preset, context in ((PRETRAINING_1, 5120), (PRETRAINING_2, 131072)):
        assert (preset.context_length, preset.learning_rate, preset.schedule) == (
            context,
            5e-5,
            "cosine",
        )
        assert (preset.loss_weights.vision, preset.loss_weights.text) == (0.5, 1)
        assert {"context_length", "learning_rate", "schedule", "loss_weights"} <= set(
            preset.from_paper
        )
    assert QUALITY.schedule == "linear"
    assert QUALITY.image_areas == (262144, 518400)
    assert INSTRUCTION.image_areas == (262144, 1048576)
    for preset in BAAI_PRESETS[:5]:
        assert (preset.betas, preset.eps, preset.weight_decay, preset.max_grad_norm) == (
            (0.9, 0.95),
            1e-6,
            0.1,
            5.0,
        )
        assert preset.dropout == 0.1
        assert {"betas", "eps", "weight_decay", "max_grad_norm"} <= set(preset.from_script)


@pytest.mark.parametrize(
    "preset", [*BAAI_PRESETS, *NANO_PRESETS], ids=lambda preset: f"{preset.name}"
)
def test_largest_image_fits_the_context(preset: Preset) -> None:
    side = round(preset.image_areas[1] ** 0.5) // 8  # codes
    assert DocumentFormat.num_tokens(side, side) + 100 <= preset.context_length


@pytest.mark.parametrize(
    "preset", [*BAAI_PRESETS, *NANO_PRESETS], ids=lambda preset: f"{preset.name}"
)
def test_unpublished_numbers_are_ours(preset: Preset) -> None:
    for name in ("steps", "batch_size"):
        assert preset.source(name) == "ours"
    assert not set(preset.from_paper) & set(preset.from_script)


def test_changed_numbers_of_nano_presets_are_ours() -> None:
    for preset in NANO_PRESETS:
        for name in ("context_length", "image_areas", "learning_rate", "weight_decay"):
            assert preset.source(name) == "ours"
    assert NANO_PRESETS[0].source("loss_weights") == "paper"


@pytest.mark.parametrize(
    "preset", [*BAAI_PRESETS, *NANO_PRESETS], ids=lambda preset: f"{preset.name}"
)
def test_training_config_has_all_numbers_of_the_preset(preset: Preset) -> None:
    config = preset.training_config(
        micro_batch_size=3, bf16=True, report_every=5, save_every=7, seed=9
    )
    shared = {field.name for field in fields(preset)} & {field.name for field in fields(config)}
    assert shared >= {"steps", "learning_rate", "final_learning_rate", "schedule", "warmup_steps"}
    assert shared >= {"max_grad_norm", "weight_decay", "optimizer", "betas", "eps"}
    assert all(getattr(config, name) == getattr(preset, name) for name in shared)
    assert (config.micro_batch_size, config.report_every, config.save_every, config.seed) == (
        3,
        5,
        7,
        9,
    )


def test_each_stage_starts_from_an_earlier_one() -> None:
    names = [preset.name for preset in BAAI_PRESETS]
    for index, preset in enumerate(BAAI_PRESETS):
        assert preset.starts_from in ([""] if index == 0 else names[:index])
    assert DPO.starts_from == QUALITY.name


def test_invalid_presets_are_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        LossWeights(text=0, vision=0, answer=0)
    with pytest.raises(InputError, match="above 0"):
        LossWeights(text=1, vision=-1, answer=0)
    with pytest.raises(InputError, match="unknown fields"):
        replace(QUALITY, from_paper=("leraning_rate",))
