"""Compiled blocks learn what the written ones learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emu3.errors import InputError
from emu3.parallel import World
from emu3.testing import tiny_decoder
from emu3.train.compiled import MULTIPLE, blocks_compiled
from emu3.train.decoder import fresh, train_decoder
from emu3.train.documents import Document, accumulate
from tests.train.test_decoder import CONFIG, RUN
from tests.train.test_documents import VISUAL, documents


def test_compiled_is_written() -> None:
    """The same loss and gradients; and outside of `passes` nothing is compiled."""
    model = tiny_decoder()
    batch = documents([5, 17, 9, 16])
    expected = accumulate(model, batch, VISUAL, 2)
    wanted = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    passes = blocks_compiled(model)
    for _ in range(2):
        with passes():
            assert all("forward" in vars(block) for block in model.model.layers)
            found = accumulate(model, batch, VISUAL, 2, multiple=MULTIPLE)
        assert not any("forward" in vars(block) for block in model.model.layers)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for parameter, one in zip(model.parameters(), wanted, strict=True):
        assert one is not None
        torch.testing.assert_close(parameter.grad, 2 * one, atol=1e-5, rtol=1e-3)


def test_a_run_may_be_compiled(tmp_path: Path) -> None:
    def same(rng: np.random.Generator) -> Sequence[Document]:
        return documents([5, 9])

    run = replace(RUN, steps=3, optimizer="adamw")
    ends = []
    for compiled in (False, True):
        model = fresh(replace(CONFIG, attention_dropout=0.0), 0)  # which has another randomness
        folder = tmp_path / str(compiled)
        train_decoder(model, replace(run, compiled=compiled), same, VISUAL, folder)
        ends.append(model.lm_head.weight.detach())
    torch.testing.assert_close(ends[1], ends[0], atol=1e-4, rtol=1e-3)


def test_several_processes_are_not_compiled(tmp_path: Path) -> None:
    world = replace(World.alone(), size=2)
    run = replace(RUN, compiled=True)
    with pytest.raises(InputError, match="one process"):
        train_decoder(tiny_decoder(), run, lambda rng: [], VISUAL, tmp_path, world=world)
