"""Pictures in windows against pictures one code at a time: the same ids, whatever is guessed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from emu3.fuse import ready
from emu3.generate import generate_pictures
from emu3.prompt import Prompts
from emu3.sampling import Sampling
from emu3.testing import byte_tokenizer, tiny_decoder
from emu3.windows import Drawing, Picture

PROMPTS = Prompts.of(byte_tokenizer())
GRAMMAR, V = PROMPTS.grammar, PROMPTS.tokenizer.vocabulary
SIZES = [(2, 5), (4, 3), (1, 1), (3, 2), (6, 1)]
ROWS = [PROMPTS.image("ab" * index, size) for index, size in enumerate(SIZES)]
NEGATIVES = [PROMPTS.image("ugly", size) for size in SIZES]
SEEDS = list(range(4, 4 + len(SIZES)))
SAMPLINGS = [
    Sampling(top_k=1),
    Sampling(top_k=0),
    Sampling(top_k=9, temperature=1.5),
    Sampling(0, 0.8),
]


def pictures(guided: bool) -> list[Picture]:
    return [
        Picture([row, negative] if guided else [row], size, seed)
        for row, negative, size, seed in zip(ROWS, NEGATIVES, SIZES, SEEDS, strict=True)
    ]


def slow(sampling: Sampling, guided: bool, scale: float) -> list[list[int]]:
    model, negatives = tiny_decoder(initializer_range=0.3), NEGATIVES if guided else None
    out = generate_pictures(model, GRAMMAR, ROWS, negatives, SIZES, sampling, scale, SEEDS)
    return [
        GRAMMAR.read_body(ids, *size).flatten().tolist()
        for ids, size in zip(out, SIZES, strict=True)
    ]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("window", [1, 2, 5, 40])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_window_draws_what_one_at_a_time_draws(
    sampling: Sampling, window: int, fused: bool
) -> None:
    """Of pictures of several sizes in a batch, with guidance and without."""
    for guided, scale in ((True, 3.0), (False, 1.0)):
        model = tiny_decoder(initializer_range=0.3)
        if fused:
            ready(model, V.visual)
        drawn = pictures(guided)
        Drawing(model, GRAMMAR, sampling, scale, window).run(drawn)
        assert [picture.codes for picture in drawn] == slow(sampling, guided, scale)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_slots_are_refilled_and_nobody_notices(slots: int) -> None:
    sampling, seen = Sampling(top_k=20), []

    def on_pass(active: object) -> None:
        seen.append([picture.size for picture in active])  # type: ignore[attr-defined]

    model, drawn = tiny_decoder(initializer_range=0.3), pictures(True)
    Drawing(model, GRAMMAR, sampling, 3.0, window=2, slots=slots).run(drawn, on_pass)
    assert [picture.codes for picture in drawn] == slow(sampling, True, 3.0)
    assert max(map(len, seen)) == slots
    if slots > 1:  # a short picture left before a long one was done, and another came
        changes = [b for a, b in pairwise(seen) if a != b]
        assert any(len(active) == slots for active in changes)


def test_line_ends_ride_along() -> None:
    """One pass a code and none for a line end; fewer with a wider window, never more."""
    passes = {}
    for window in (1, 4):
        model, drawn = tiny_decoder(initializer_range=0.3), pictures(True)
        Drawing(model, GRAMMAR, Sampling(), 3.0, window).run(drawn)
        passes[window] = [picture.passes for picture in drawn]
    assert passes[1] == [h * w for h, w in SIZES]
    assert all(wide <= one for wide, one in zip(passes[4], passes[1], strict=True))


def test_a_right_guess_saves_passes_and_a_wrong_one_costs_none() -> None:
    model = tiny_decoder(initializer_range=0.3)
    size, row = (6, 6), PROMPTS.image("x", (6, 6))
    drawing = Drawing(model, GRAMMAR, Sampling(), 1.0, window=6)
    first = Picture([row], size, 3)
    drawing.run([first])
    told = Picture([row], size, 3, guess=list(first.codes))
    drawing.run([told])
    wrong = Picture([row], size, 3, guess=[(code + 1) % 64 for code in first.codes])
    drawing.run([wrong])
    assert told.codes == wrong.codes == first.codes
    assert told.passes < first.passes
    assert wrong.passes <= 36


def test_the_noise_of_a_place_is_drawn_once() -> None:
    picture = Picture([[0]], (2, 3), seed=7)
    ahead = picture.gumbel(4, 10)
    assert torch.equal(picture.gumbel(2, 10), ahead[:2])
    picture.commit([5, 6, 7], [5, 9, 9, 9])  # the first guess was right: two codes are
    assert picture.codes == [5, 9]
    assert torch.equal(picture.gumbel(2, 10), ahead[2:])
