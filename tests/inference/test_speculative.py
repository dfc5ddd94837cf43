"""Drawing in windows against drawing one code at a time: the same ids, whatever is guessed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from emu3.inference.optimize import optimize_for_inference
from emu3.inference.reference import generate_visual
from emu3.inference.sampling import SamplingParams
from emu3.inference.speculative import JacobiDecoder, VisualSequence
from emu3.processing.prompts import PromptTemplates
from emu3.testing import byte_tokenizer, tiny_decoder

PROMPTS = PromptTemplates.from_tokenizer(byte_tokenizer())
FORMAT, V = PROMPTS.document_format, PROMPTS.tokenizer.vocabulary
SIZES = [(2, 5), (4, 3), (1, 1), (3, 2), (6, 1)]
ROWS = [PROMPTS.image("ab" * index, size) for index, size in enumerate(SIZES)]
NEGATIVES = [PROMPTS.image("ugly", size) for size in SIZES]
SEEDS = list(range(4, 4 + len(SIZES)))
SAMPLINGS = [
    SamplingParams(top_k=1),
    SamplingParams(top_k=0),
    SamplingParams(top_k=9, temperature=1.5),
    SamplingParams(0, 0.8),
]


def pictures(guided: bool) -> list[VisualSequence]:
    return [
        VisualSequence([row, negative] if guided else [row], size, seed)
        for row, negative, size, seed in zip(ROWS, NEGATIVES, SIZES, SEEDS, strict=True)
    ]


def slow(sampling: SamplingParams, guided: bool, scale: float) -> list[list[int]]:
    model, negatives = tiny_decoder(initializer_range=0.3), NEGATIVES if guided else None
    out = generate_visual(model, FORMAT, ROWS, negatives, SIZES, sampling, scale, SEEDS)
    return [
        FORMAT.decode_body(ids, *size).flatten().tolist()
        for ids, size in zip(out, SIZES, strict=True)
    ]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("window", [1, 2, 5, 40])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_window_draws_what_one_at_a_time_draws(
    sampling: SamplingParams, window: int, fused: bool
) -> None:
    """Of pictures of several sizes in a batch, with guidance and without."""
    for guided, scale in ((True, 3.0), (False, 1.0)):
        model = tiny_decoder(initializer_range=0.3)
        if fused:
            optimize_for_inference(model, V.visual)
        drawn = pictures(guided)
        JacobiDecoder(model, FORMAT, sampling, scale, window).run(drawn)
        assert [picture.codes for picture in drawn] == slow(sampling, guided, scale)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_slots_are_refilled_and_nobody_notices(slots: int) -> None:
    sampling, seen = SamplingParams(top_k=20), []

    def on_pass(active: object) -> None:
        seen.append([picture.size for picture in active])  # type: ignore[attr-defined]

    model, drawn = tiny_decoder(initializer_range=0.3), pictures(True)
    JacobiDecoder(model, FORMAT, sampling, 3.0, window=2, slots=slots).run(drawn, on_pass)
    assert [picture.codes for picture in drawn] == slow(sampling, True, 3.0)
    assert max(map(len, seen)) == slots
    if slots > 1:  # a short picture left before a long one was done, and another came
        changes = [b for a, b in pairwise(seen) if a != b]
        assert any(len(active) == slots for active in changes)


@pytest.mark.parametrize("many", [1, 2, 3])
def test_as_many_at_a_time_as_there_are_places_for(many: int) -> None:
    sampling, drawn, seen = SamplingParams(top_k=20), pictures(True), set[int]()
    drawing = JacobiDecoder(tiny_decoder(initializer_range=0.3), FORMAT, sampling, 3.0, window=2)
    each = 2 * max(map(drawing.room, drawn))
    for places in (many * each, (many + 1) * each - 1):
        drawn = pictures(True)
        replace(drawing, places=places).run(drawn, lambda active: seen.add(len(active)))
        assert [picture.codes for picture in drawn] == slow(sampling, True, 3.0)
        assert max(seen) == many
    replace(drawing, places=1).run(pictures(True)[:1])  # one is always drawn


def test_line_ends_ride_along() -> None:
    """One pass a code and none for a line end; fewer with a wider window, never more."""
    passes = {}
    for window in (1, 4):
        model, drawn = tiny_decoder(initializer_range=0.3), pictures(True)
        JacobiDecoder(model, FORMAT, SamplingParams(), 3.0, window).run(drawn)
        passes[window] = [picture.passes for picture in drawn]
    assert passes[1] == [h * w for h, w in SIZES]
    assert all(wide <= one for wide, one in zip(passes[4], passes[1], strict=True))


def test_a_right_guess_saves_passes_and_a_wrong_one_costs_none() -> None:
    model = tiny_decoder(initializer_range=0.3)
    size, row = (6, 6), PROMPTS.image("x", (6, 6))
    drawing = JacobiDecoder(model, FORMAT, SamplingParams(), 1.0, window=6)
    first = VisualSequence([row], size, 3)
    drawing.run([first])
    told = VisualSequence([row], size, 3, guess=list(first.codes))
    drawing.run([told])
    wrong = VisualSequence([row], size, 3, guess=[(code + 1) % 64 for code in first.codes])
    drawing.run([wrong])
    assert told.codes == wrong.codes == first.codes
    assert told.passes < first.passes
    assert wrong.passes <= 36


def test_the_noise_of_a_place_is_drawn_once() -> None:
    picture = VisualSequence([[0]], (2, 3), seed=7)
    ahead = picture.gumbel(4, 10)
    assert torch.equal(picture.gumbel(2, 10), ahead[:2])
    picture.commit([5, 6, 7], [5, 9, 9, 9])  # the first guess was right: two codes are
    assert picture.codes == [5, 9]
    assert torch.equal(picture.gumbel(2, 10), ahead[2:])


# Videos: (height, width, groups), and pictures among them.

GRIDS = [(2, 3, 3), (3, 2, 1), (1, 1, 4), (2, 2, 2), (1, 4, 3)]


def headed(text: str, height: int, width: int, groups: int) -> list[int]:
    if groups == 1:
        return PROMPTS.image(text, (height, width))
    return PROMPTS.video(text, (height, width), 8, groups * FORMAT.group)


CLIP_ROWS = [headed("ab" * index, *grid) for index, grid in enumerate(GRIDS)]
CLIP_NEGATIVES = [headed("ugly", *grid) for grid in GRIDS]


def clips(guided: bool, known: list[list[int]] | None = None) -> list[VisualSequence]:
    return [
        VisualSequence(
            [row, negative] if guided else [row],
            (height, width),
            seed,
            codes=list(codes),
            groups=groups,
        )
        for row, negative, (height, width, groups), seed, codes in zip(
            CLIP_ROWS, CLIP_NEGATIVES, GRIDS, SEEDS, known or [[]] * len(GRIDS), strict=True
        )
    ]


def slow_clips(
    sampling: SamplingParams, guided: bool, scale: float, known: list[list[int]] | None = None
) -> list[list[int]]:
    out = generate_visual(
        tiny_decoder(initializer_range=0.3),
        FORMAT,
        CLIP_ROWS,
        CLIP_NEGATIVES if guided else None,
        [(h, w) for h, w, _ in GRIDS],
        sampling,
        scale,
        SEEDS,
        groups=[groups for *_, groups in GRIDS],
        known=known,
    )
    drawn = []
    for row, ids, (_, _, groups) in zip(CLIP_ROWS, out, GRIDS, strict=True):
        whole = torch.cat([torch.tensor(row[row.index(V.sov) :]), ids[ids < V.size]])
        part = FORMAT.parse(whole[: (whole == V.eov).nonzero()[0, 0] + 1])[0]
        codes = part if isinstance(part, torch.Tensor) else part.codes
        assert len(codes) == groups or groups == 1
        drawn.append(codes.flatten().tolist())
    return drawn


@pytest.mark.parametrize("window", [1, 2, 5, 40])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_videos_and_pictures_in_one_batch(sampling: SamplingParams, window: int) -> None:
    for guided, scale in ((True, 3.0), (False, 1.0)):
        drawn = clips(guided)
        JacobiDecoder(tiny_decoder(initializer_range=0.3), FORMAT, sampling, scale, window).run(
            drawn
        )
        assert [clip.codes for clip in drawn] == slow_clips(sampling, guided, scale)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_video_alone_is_the_video_in_a_batch(slots: int) -> None:
    drawn = clips(True)
    model = tiny_decoder(initializer_range=0.3)
    JacobiDecoder(model, FORMAT, SamplingParams(), 3.0, window=3, slots=slots).run(drawn)
    assert [clip.codes for clip in drawn] == slow_clips(SamplingParams(), True, 3.0)


@pytest.mark.parametrize("window", [1, 7])
@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_true_codes_given_are_gone_on_with_as_if_drawn(share: float, window: int) -> None:
    """Of whole frames and of parts of one, by both versions: the noise belongs to the place."""
    sampling = SamplingParams()
    whole = slow_clips(sampling, True, 3.0)
    given = [codes[: int(len(codes) * share)] for codes in whole]
    assert slow_clips(sampling, True, 3.0, given) == whole
    drawn = clips(True, given)
    JacobiDecoder(tiny_decoder(initializer_range=0.3), FORMAT, sampling, 3.0, window).run(drawn)
    assert [clip.codes for clip in drawn] == whole
    assert all(
        clip.passes <= len(codes) - len(known)
        for clip, codes, known in zip(drawn, whole, given, strict=True)
    )


def test_false_codes_given_are_kept_and_change_what_follows() -> None:
    sampling, whole = SamplingParams(), slow_clips(SamplingParams(), True, 3.0)
    given = [[(code + 1) % 64 for code in codes[: len(codes) // 2]] for codes in whole]
    drawn = clips(True, given)
    JacobiDecoder(tiny_decoder(initializer_range=0.3), FORMAT, sampling, 3.0, window=4).run(drawn)
    assert [clip.codes for clip in drawn] == slow_clips(sampling, True, 3.0, given)
    assert all(clip.codes[: len(codes)] == codes for clip, codes in zip(drawn, given, strict=True))
    assert [clip.codes for clip in drawn] != whole


def test_every_frame_has_noise_of_its_own_wherever_one_begins() -> None:
    whole = VisualSequence([[0]], (2, 2), seed=7, groups=3)
    noise = whole.gumbel(12, 10)
    assert len({tuple(row.tolist()) for row in noise}) == 12
    later = VisualSequence([[0]], (2, 2), seed=7, codes=[1] * 4, groups=2, before=1)
    assert torch.equal(later.gumbel(4, 10), noise[8:])
    inside = VisualSequence([[0]], (2, 2), seed=7, codes=[1] * 6, groups=3)
    assert torch.equal(inside.gumbel(6, 10), noise[6:])
    assert torch.equal(noise[:4], VisualSequence([[0]], (2, 2), seed=7).gumbel(4, 10))


def test_time_is_guessed_from_the_frame_before() -> None:
    clip = VisualSequence([[0]], (2, 2), seed=7, groups=3)
    assert clip.guessed(6) == [0] * 6
    clip.codes = [1, 2]
    assert clip.guessed(2) == [1, 2]  # the row above
    clip.codes = [1, 2, 3, 4, 5]
    assert clip.guessed(5) == [2, 3, 4, 5, 2]
    assert clip.frames().tolist() == [[[1, 2], [3, 4]]]
    assert clip.rows().tolist() == [[1, 2], [3, 4]]


def test_a_still_video_takes_few_passes() -> None:
    """Guesses from the frame before are right where nothing moves: one pass a window."""
    model, (height, width) = tiny_decoder(initializer_range=0.3), (3, 3)
    drawing = JacobiDecoder(model, FORMAT, SamplingParams(top_k=1), 1.0, window=9)
    model.lm_head.weight.data.zero_()  # all logits alike: the same code everywhere
    row = headed("x", height, width, 4)
    clip = VisualSequence([row], (height, width), 3, groups=4)
    drawing.run([clip])
    assert len(set(clip.codes)) == 1
    assert clip.passes == 4
