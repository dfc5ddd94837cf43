"""The stages: roles become weights, and the published numbers are the published numbers."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from emu3.data.packing import PackedRow
from emu3.data.token_roles import ANSWER, CONTEXT, TEXT, VISION
from emu3.errors import InputError
from emu3.processing.document_format import DocumentFormat
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
    sequence_from_pack,
)

ROLES = [TEXT, TEXT, VISION, CONTEXT, CONTEXT, VISION, ANSWER, ANSWER]


def pack(lengths: tuple[int, ...] = (8,)) -> PackedRow:
    return PackedRow(torch.arange(8), torch.tensor(ROLES, dtype=torch.uint8), lengths)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (PRETRAINING_1, [0, 1, 0.5, 0, 0, 0.5, 1, 1]),
        (QUALITY, [0, 0, 1, 0, 0, 1, 0, 0]),
        (UNDERSTANDING, [0, 1, 0, 0, 0, 0, 1, 1]),
        (INSTRUCTION, [0, 0, 0, 0, 0, 0, 1, 1]),
    ],
)
def test_a_stage_says_what_counts(stage: Preset, expected: list[float]) -> None:
    document = sequence_from_pack(pack(), stage.loss_weights)
    assert document.loss_weights.tolist() == expected
    assert document.loss_weights.dtype == torch.float32
    assert document.token_ids.tolist() == list(range(8))
    assert document.document_lengths == (8,)


def test_the_first_id_of_every_part_is_no_target() -> None:
    document = sequence_from_pack(
        pack((3, 1, 4)), LossWeights(text=1, vision=1, answer=1, context=1)
    )
    assert document.loss_weights.tolist() == [0, 1, 1, 0, 0, 1, 1, 1]
    assert document.document_lengths == (3, 1, 4)


def test_the_paper_is_quoted_rightly() -> None:
    """Numbers typed in again, from the fact sheet and not from the presets."""
    for stage, context in ((PRETRAINING_1, 5120), (PRETRAINING_2, 131072)):
        assert (stage.context_length, stage.learning_rate, stage.schedule) == (
            context,
            5e-5,
            "cosine",
        )
        assert (stage.loss_weights.vision, stage.loss_weights.text) == (0.5, 1)
        assert {"context_length", "learning_rate", "schedule", "loss_weights"} <= set(
            stage.from_paper
        )
    assert QUALITY.schedule == "linear"
    assert QUALITY.image_areas == (262144, 518400)
    assert INSTRUCTION.image_areas == (262144, 1048576)
    for stage in BAAI_PRESETS[:5]:
        assert (stage.betas, stage.eps, stage.weight_decay, stage.max_grad_norm) == (
            (0.9, 0.95),
            1e-6,
            0.1,
            5.0,
        )
        assert stage.dropout == 0.1
        assert {"betas", "eps", "weight_decay", "max_grad_norm"} <= set(stage.from_script)


@pytest.mark.parametrize("stage", [*BAAI_PRESETS, *NANO_PRESETS], ids=lambda stage: f"{stage.name}")
def test_its_largest_picture_fits_a_row(stage: Preset) -> None:
    side = round(stage.image_areas[1] ** 0.5) // 8  # codes
    assert DocumentFormat.num_tokens(side, side) + 100 <= stage.context_length


@pytest.mark.parametrize("stage", [*BAAI_PRESETS, *NANO_PRESETS], ids=lambda stage: f"{stage.name}")
def test_what_nobody_published_is_called_ours(stage: Preset) -> None:
    for name in ("steps", "batch_size"):
        assert stage.source(name) == "ours"
    assert not set(stage.from_paper) & set(stage.from_script)


def test_nano_takes_no_credit_from_the_paper_for_its_own_numbers() -> None:
    for stage in NANO_PRESETS:
        for name in ("context_length", "image_areas", "learning_rate", "weight_decay"):
            assert stage.source(name) == "ours"
    assert NANO_PRESETS[0].source("loss_weights") == "paper"


@pytest.mark.parametrize("stage", [*BAAI_PRESETS, *NANO_PRESETS], ids=lambda stage: f"{stage.name}")
def test_a_run_is_told_all_that_a_stage_states(stage: Preset) -> None:
    run = stage.training_config(micro_batch_size=3, bf16=True, report_every=5, save_every=7, seed=9)
    shared = {field.name for field in fields(stage)} & {field.name for field in fields(run)}
    assert shared >= {"steps", "learning_rate", "final_learning_rate", "schedule", "warmup_steps"}
    assert shared >= {"max_grad_norm", "weight_decay", "optimizer", "betas", "eps"}
    assert all(getattr(run, name) == getattr(stage, name) for name in shared)
    assert (run.micro_batch_size, run.report_every, run.save_every, run.seed) == (3, 5, 7, 9)


def test_each_stage_goes_on_from_one_before_it() -> None:
    names = [stage.name for stage in BAAI_PRESETS]
    for index, stage in enumerate(BAAI_PRESETS):
        assert stage.starts_from in ([""] if index == 0 else names[:index])
    assert DPO.starts_from == QUALITY.name


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        LossWeights(text=0, vision=0, answer=0)
    with pytest.raises(InputError, match="above 0"):
        LossWeights(text=1, vision=-1, answer=0)
    with pytest.raises(InputError, match="no fields"):
        replace(QUALITY, from_paper=("leraning_rate",))
