"""Speculative decoding equals reference decoding: the same ids, whatever is drafted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from emu3.inference.model_runner import ModelRunner
from emu3.inference.optimize import optimize_for_inference
from emu3.inference.reference import generate_text, generate_visual
from emu3.inference.sampling import SamplingParams
from emu3.inference.sequences import TextSequence, VisualSequence
from emu3.inference.speculative import accept_draft
from emu3.models.transformer import Transformer
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


def decoder() -> Transformer:
    return tiny_decoder(initializer_range=0.3)


def decode(
    sequences: Sequence[VisualSequence], draft_length: int | None, model: Transformer | None = None
) -> list[list[int]]:
    ModelRunner(model or decoder(), V, draft_length).run(sequences)
    return [sequence.codes.tolist() for sequence in sequences]


def images(sampling: SamplingParams, scale: float) -> list[VisualSequence]:
    return [
        VisualSequence(
            [row] if scale == 1 else [row, negative], size, seed, FORMAT, sampling, scale
        )
        for row, negative, size, seed in zip(ROWS, NEGATIVES, SIZES, SEEDS, strict=True)
    ]


def reference(sampling: SamplingParams, scale: float) -> list[list[int]]:
    negatives = None if scale == 1 else NEGATIVES
    out = generate_visual(decoder(), FORMAT, ROWS, negatives, SIZES, sampling, scale, SEEDS)
    return [
        FORMAT.decode_body(ids, *size).flatten().tolist()
        for ids, size in zip(out, SIZES, strict=True)
    ]


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("draft_length", [1, 2, 5, 40])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_equals_reference(sampling: SamplingParams, draft_length: int, optimized: bool) -> None:
    """Images of several sizes in a batch, with guidance and without."""
    for scale in (3.0, 1.0):
        model = decoder()
        if optimized:
            optimize_for_inference(model, V.visual)
        assert decode(images(sampling, scale), draft_length, model) == reference(sampling, scale)


def test_one_pass_serves_all_sampling_parameters_and_kinds() -> None:
    """Images with their own parameters and guidance, and answers, share every forward pass."""
    scales = [1.0, 3.0, 1.5, 0.5, 1.0]
    params = [*SAMPLINGS, SamplingParams(7, 0.9, 0.7)]
    expected = [
        reference(sampling, scale)[index]
        for index, (sampling, scale) in enumerate(zip(params, scales, strict=True))
    ]
    sequences = [
        images(sampling, scale)[index]
        for index, (sampling, scale) in enumerate(zip(params, scales, strict=True))
    ]
    questions = [PROMPTS.chat("what?" * n, []) for n in (1, 4)]
    answers = [
        TextSequence(prompt, 9, sampling, seed, V.eos)
        for prompt, sampling, seed in zip(questions, SAMPLINGS[:2], (5, 6), strict=True)
    ]
    model, calls = decoder(), list[int]()
    plain = model.forward_hidden

    def counted(ids: torch.Tensor, *rest: object) -> torch.Tensor:
        calls.append(len(ids))
        return plain(ids, *rest)  # type: ignore[arg-type]

    model.forward_hidden = counted  # type: ignore[method-assign]
    runner = ModelRunner(model, V)
    runner.add([*sequences, *answers])
    calls.clear()
    rows = runner.num_rows
    runner.step()
    assert calls == [rows]
    for each in [each for each in runner.sequences if each.done]:
        runner.remove(each)
    while runner.sequences:
        runner.step()
        for each in [each for each in runner.sequences if each.done]:
            runner.remove(each)
    assert [each.codes.tolist() for each in sequences] == expected
    for answer, prompt, sampling, seed in zip(
        answers, questions, SAMPLINGS[:2], (5, 6), strict=True
    ):
        (ids,) = generate_text(decoder(), [prompt], V.eos, V.pad, 9, sampling, [seed])
        assert answer.ids == ids.tolist()


def test_sequences_join_and_leave_between_steps() -> None:
    sampling = SamplingParams(top_k=20)
    waiting, runner = images(sampling, 3.0), ModelRunner(decoder(), V, draft_length=2)
    all_of_them = list(waiting)
    while waiting or runner.sequences:
        if waiting and len(runner.sequences) < 2:
            runner.add([waiting.pop(0)])
        runner.step()
        for each in [each for each in runner.sequences if each.done]:
            runner.remove(each)
    assert [each.codes.tolist() for each in all_of_them] == reference(sampling, 3.0)


def test_line_ends_cost_no_pass() -> None:
    """One pass per code and none for a line end; fewer with a longer draft, never more."""
    steps = {}
    for draft_length in (1, 4):
        sequences = images(SamplingParams(), 3.0)
        decode(sequences, draft_length)
        steps[draft_length] = [sequence.steps for sequence in sequences]
    assert steps[1] == [h * w for h, w in SIZES]
    assert all(long <= one for long, one in zip(steps[4], steps[1], strict=True))


def test_a_right_draft_saves_passes_and_a_wrong_one_costs_none() -> None:
    size, row = (6, 6), PROMPTS.image("x", (6, 6))

    def drafted(codes: torch.Tensor | None) -> VisualSequence:
        sequence = VisualSequence([row], size, 3, FORMAT, SamplingParams())
        if codes is not None:
            sequence.body[sequence.code_positions] = codes + V.visual_start
            sequence.num_drafted = len(codes)
        decode([sequence], 6)
        return sequence

    first = drafted(None)
    right, wrong = drafted(first.codes), drafted((first.codes + 1) % 64)
    assert right.codes.tolist() == wrong.codes.tolist() == first.codes.tolist()
    assert right.steps < first.steps
    assert wrong.steps <= 36


@pytest.mark.parametrize(
    ("draft", "sampled", "accepted"),
    [([], [5], 1), ([5], [5, 9], 2), ([4], [5, 9], 1), ([5, 6, 7], [5, 9, 7, 1], 2)],
)
def test_the_confirmed_prefix_is_accepted(
    draft: list[int], sampled: list[int], accepted: int
) -> None:
    assert accept_draft(draft, sampled) == accepted


def test_the_noise_of_a_code_is_drawn_once() -> None:
    sequence = VisualSequence([[0]], (2, 3), 7, FORMAT, SamplingParams())
    sequence.begin_step(4)
    ahead = sequence.noise(10)
    draft = sequence.body[sequence.code_positions[:3]] - V.visual_start
    first = int(draft[0])
    sequence.accept([first, 9, 9, 9])  # the first draft is confirmed: two codes are accepted
    assert sequence.codes.tolist() == [first, 9]
    sequence.begin_step(2)
    assert torch.equal(sequence.noise(10), ahead[2:])


# Videos: (height, width, groups), and images among them.

GRIDS = [(2, 3, 3), (3, 2, 1), (1, 1, 4), (2, 2, 2), (1, 4, 3)]


def headed(text: str, height: int, width: int, groups: int) -> list[int]:
    if groups == 1:
        return PROMPTS.image(text, (height, width))
    return PROMPTS.video(text, (height, width), 8, groups * FORMAT.frames_per_group)


CLIP_ROWS = [headed("ab" * index, *grid) for index, grid in enumerate(GRIDS)]
CLIP_NEGATIVES = [headed("ugly", *grid) for grid in GRIDS]


def clips(
    sampling: SamplingParams, scale: float, known: list[list[int]] | None = None
) -> list[VisualSequence]:
    return [
        VisualSequence(
            [row] if scale == 1 else [row, negative],
            (height, width),
            seed,
            FORMAT,
            sampling,
            scale,
            known=torch.tensor(codes, dtype=torch.long),
            groups=groups,
        )
        for row, negative, (height, width, groups), seed, codes in zip(
            CLIP_ROWS, CLIP_NEGATIVES, GRIDS, SEEDS, known or [[]] * len(GRIDS), strict=True
        )
    ]


def reference_clips(
    sampling: SamplingParams, scale: float, known: list[list[int]] | None = None
) -> list[list[int]]:
    out = generate_visual(
        decoder(),
        FORMAT,
        CLIP_ROWS,
        None if scale == 1 else CLIP_NEGATIVES,
        [(h, w) for h, w, _ in GRIDS],
        sampling,
        scale,
        SEEDS,
        groups=[groups for *_, groups in GRIDS],
        known=known,
    )
    generated = []
    for row, ids, (_, _, groups) in zip(CLIP_ROWS, out, GRIDS, strict=True):
        whole = torch.cat([torch.tensor(row[row.index(V.sov) :]), ids[ids < V.size]])
        part = FORMAT.parse(whole[: (whole == V.eov).nonzero()[0, 0] + 1])[0]
        codes = part if isinstance(part, torch.Tensor) else part.codes
        assert len(codes) == groups or groups == 1
        generated.append(codes.flatten().tolist())
    return generated


@pytest.mark.parametrize("draft_length", [1, 2, 5, 40])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_videos_and_images_in_one_batch(sampling: SamplingParams, draft_length: int) -> None:
    for scale in (3.0, 1.0):
        assert decode(clips(sampling, scale), draft_length) == reference_clips(sampling, scale)


def test_a_video_alone_is_the_video_in_a_batch() -> None:
    expected = reference_clips(SamplingParams(), 3.0)
    for index in range(len(GRIDS)):
        assert decode([clips(SamplingParams(), 3.0)[index]], 3) == [expected[index]]


@pytest.mark.parametrize("draft_length", [1, 7])
@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_given_codes_are_continued_as_if_generated(share: float, draft_length: int) -> None:
    """Whole frames and parts of one, by both versions: the noise belongs to the position."""
    sampling = SamplingParams()
    whole = reference_clips(sampling, 3.0)
    given = [codes[: int(len(codes) * share)] for codes in whole]
    assert reference_clips(sampling, 3.0, given) == whole
    sequences = clips(sampling, 3.0, given)
    assert decode(sequences, draft_length) == whole
    assert all(
        clip.steps <= len(codes) - len(known)
        for clip, codes, known in zip(sequences, whole, given, strict=True)
    )


def test_other_given_codes_are_kept_and_change_what_follows() -> None:
    sampling = SamplingParams()
    whole = reference_clips(sampling, 3.0)
    given = [[(code + 1) % 64 for code in codes[: len(codes) // 2]] for codes in whole]
    generated = decode(clips(sampling, 3.0, given), 4)
    assert generated == reference_clips(sampling, 3.0, given)
    assert all(new[: len(old)] == old for new, old in zip(generated, given, strict=True))
    assert generated != whole


def sequence_of(
    groups: int, known: list[int] | None = None, frame_offset: int = 0
) -> VisualSequence:
    codes = None if known is None else torch.tensor(known, dtype=torch.long)
    return VisualSequence(
        [[0]],
        (2, 2),
        7,
        FORMAT,
        SamplingParams(),
        groups=groups,
        known=codes,
        frame_offset=frame_offset,
    )


def test_every_frame_has_its_own_noise_wherever_a_sequence_begins() -> None:
    def noise(sequence: VisualSequence) -> torch.Tensor:
        sequence.begin_step(100)
        return sequence.noise(10)

    whole = noise(sequence_of(3))
    assert len({tuple(row.tolist()) for row in whole}) == 12
    assert torch.equal(noise(sequence_of(2, [1] * 4, frame_offset=1)), whole[8:])
    assert torch.equal(noise(sequence_of(3, [1] * 6)), whole[6:])
    assert torch.equal(noise(sequence_of(1)), whole[:4])


def test_a_draft_repeats_the_frame_before_or_the_row_above() -> None:
    def draft(known: list[int], count: int) -> list[int]:
        sequence = sequence_of(3, known)
        sequence.begin_step(count + 1)
        ids = sequence.body[sequence.code_positions[len(known) : len(known) + count]]
        return (ids - V.visual_start).tolist()

    assert draft([], 6) == [0] * 6
    assert draft([1, 2], 2) == [1, 2]  # the row above
    assert draft([1, 2, 3, 4, 5], 5) == [2, 3, 4, 5, 2]  # the frame before
    sequence = sequence_of(3, [1, 2, 3, 4, 5])
    assert sequence.finished_frames().tolist() == [[[1, 2], [3, 4]]]
    assert sequence.finished_rows().tolist() == [[1, 2], [3, 4]]


def test_a_still_video_takes_few_passes() -> None:
    """Drafts from the frame before are right where nothing moves: one pass per draft."""
    model, (height, width) = decoder(), (3, 3)
    model.lm_head.weight.data.zero_()  # all logits alike: the same code everywhere
    row = headed("x", height, width, 4)
    clip = VisualSequence([row], (height, width), 3, FORMAT, SamplingParams(top_k=1), groups=4)
    decode([clip], 9, model)
    assert len(set(clip.codes.tolist())) == 1
    assert clip.steps == 4
