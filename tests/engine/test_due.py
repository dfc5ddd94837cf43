"""Pictures are decoded when they are due: ends at once, partial ones together, nobody left out."""

from __future__ import annotations

import pytest
import torch

from emu3.checkpoint import Checkpoint
from emu3.engine.due import due, reached
from emu3.engine.plan import DrawJob, plan_picture
from emu3.engine.request import DrawRequest
from emu3.engine.ticket import Ticket
from emu3.testing import tiny_checkpoint

HEIGHT = 8


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


def job(checkpoint: Checkpoint, rows: int, partials: int = 1, told: int = 0) -> DrawJob:
    request = DrawRequest("x", size=(16, 4 * HEIGHT), partials=partials)
    made = plan_picture(checkpoint, request, Ticket())
    made.picture.codes = [0] * (4 * rows)
    made.partials_told = told
    return made


def test_an_end_never_waits(checkpoint: Checkpoint) -> None:
    done, coming = job(checkpoint, HEIGHT), job(checkpoint, 3)
    assert [codes.shape for codes in due([done, coming]).values()] == [(HEIGHT, 4)]


def test_a_partial_picture_waits_for_one_that_is_close(checkpoint: Checkpoint) -> None:
    waits, close = job(checkpoint, 4), job(checkpoint, 3)
    assert not due([waits, close])
    close.picture.codes += [0] * 4
    assert {len(codes) for codes in due([waits, close]).values()} == {4}
    assert len(due([waits, close])) == 2


@pytest.mark.parametrize("other", [0, 2, 5])
def test_it_does_not_wait_for_one_that_is_not(checkpoint: Checkpoint, other: int) -> None:
    waits = job(checkpoint, 4)
    assert waits in due([waits, job(checkpoint, other, told=int(other > 4))])


def test_it_waits_for_a_row_at_most(checkpoint: Checkpoint) -> None:
    late = job(checkpoint, 5)
    assert len(due([late, job(checkpoint, 3)])[late]) == 4


@pytest.mark.parametrize("partials", [0, 1, 2, 3, 9])
def test_alone_each_comes_with_its_row(checkpoint: Checkpoint, partials: int) -> None:
    alone, shown = job(checkpoint, 0, partials), []
    for _ in range(HEIGHT):
        alone.picture.codes += [0] * 4
        for codes in due([alone]).values():
            shown.append(len(codes))
            alone.partials_told = reached(alone)
    assert shown[-1] == HEIGHT
    assert len(shown) == 1 + min(partials, HEIGHT - 1)
    assert shown == sorted(set(shown))


def test_several_sizes_decoded_together_are_what_they_are_alone(checkpoint: Checkpoint) -> None:
    codec = checkpoint.codec
    codes = [torch.randint(0, 64, size) for size in ((4, 4), (2, 4), (4, 4), (40, 40), (4, 4))]
    for mine, picture in zip(codes, codec.pictures(codes), strict=True):
        alone = torch.tensor(list(codec.picture(mine).tobytes())).int()
        assert (torch.tensor(list(picture.tobytes())).int() - alone).abs().max() <= 1
    assert codec.pictures([]) == []
