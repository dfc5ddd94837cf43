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
    BAAI,
    INSTRUCTION,
    NANO,
    PREFERENCES,
    PRETRAINING_1,
    PRETRAINING_2,
    QUALITY,
    UNDERSTANDING,
    Stage,
    Weights,
    weighed,
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
def test_a_stage_says_what_counts(stage: Stage, expected: list[float]) -> None:
    document = weighed(pack(), stage.weights)
    assert document.weights.tolist() == expected
    assert document.weights.dtype == torch.float32
    assert document.ids.tolist() == list(range(8))
    assert document.parts == (8,)


def test_the_first_id_of_every_part_is_no_target() -> None:
    document = weighed(pack((3, 1, 4)), Weights(text=1, vision=1, answer=1, context=1))
    assert document.weights.tolist() == [0, 1, 1, 0, 0, 1, 1, 1]
    assert document.parts == (3, 1, 4)


def test_the_paper_is_quoted_rightly() -> None:
    """Numbers typed in again, from the fact sheet and not from the presets."""
    for stage, context in ((PRETRAINING_1, 5120), (PRETRAINING_2, 131072)):
        assert (stage.context, stage.learning_rate, stage.schedule) == (context, 5e-5, "cosine")
        assert (stage.weights.vision, stage.weights.text) == (0.5, 1)
        assert {"context", "learning_rate", "schedule", "weights"} <= set(stage.paper)
    assert QUALITY.schedule == "linear"
    assert QUALITY.areas == (262144, 518400)
    assert INSTRUCTION.areas == (262144, 1048576)
    for stage in BAAI[:5]:
        assert (stage.betas, stage.eps, stage.decay, stage.clip) == ((0.9, 0.95), 1e-6, 0.1, 5.0)
        assert stage.dropout == 0.1
        assert {"betas", "eps", "decay", "clip"} <= set(stage.script)


@pytest.mark.parametrize("stage", [*BAAI, *NANO], ids=lambda stage: f"{stage.name}")
def test_its_largest_picture_fits_a_row(stage: Stage) -> None:
    side = round(stage.areas[1] ** 0.5) // 8  # codes
    assert DocumentFormat.num_tokens(side, side) + 100 <= stage.context


@pytest.mark.parametrize("stage", [*BAAI, *NANO], ids=lambda stage: f"{stage.name}")
def test_what_nobody_published_is_called_ours(stage: Stage) -> None:
    for name in ("steps", "batch"):
        assert stage.source(name) == "ours"
    assert not set(stage.paper) & set(stage.script)


def test_nano_takes_no_credit_from_the_paper_for_its_own_numbers() -> None:
    for stage in NANO:
        for name in ("context", "areas", "learning_rate", "clip", "decay", "dropout"):
            assert stage.source(name) == "ours"
    assert NANO[0].source("weights") == "paper"


@pytest.mark.parametrize("stage", [*BAAI, *NANO], ids=lambda stage: f"{stage.name}")
def test_a_run_is_told_all_that_a_stage_states(stage: Stage) -> None:
    run = stage.training(micro_batch=3, bf16=True, report_every=5, save_every=7, seed=9)
    shared = {field.name for field in fields(stage)} & {field.name for field in fields(run)}
    assert shared >= {"steps", "learning_rate", "final_rate", "schedule", "warmup", "clip"}
    assert shared >= {"decay", "optimizer", "betas", "eps"}
    assert all(getattr(run, name) == getattr(stage, name) for name in shared)
    assert (run.micro_batch, run.report_every, run.save_every, run.seed) == (3, 5, 7, 9)


def test_each_stage_goes_on_from_one_before_it() -> None:
    names = [stage.name for stage in BAAI]
    for index, stage in enumerate(BAAI):
        assert stage.starts_from in ([""] if index == 0 else names[:index])
    assert PREFERENCES.starts_from == QUALITY.name


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        Weights(text=0, vision=0, answer=0)
    with pytest.raises(InputError, match="above 0"):
        Weights(text=1, vision=-1, answer=0)
    with pytest.raises(InputError, match="no fields"):
        replace(QUALITY, paper=("leraning_rate",))
