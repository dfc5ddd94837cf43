"""Generation against BAAI's own ids, and against a loop too simple to be wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from emu3.checkpoints.generation_defaults import NEGATIVE_PROMPT, QUALITY_SUFFIX
from emu3.checkpoints.weights import load_decoder
from emu3.inference.reference import frame_seed, generate_text, generate_visual
from emu3.inference.sampling import GumbelNoise, SamplingParams, apply_cfg
from emu3.models.precision import FP32
from emu3.models.transformer import Transformer
from emu3.processing.document_format import DocumentFormat
from emu3.processing.image import size_in_codes
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.testing import byte_tokenizer, tiny_decoder

CPU = torch.device("cpu")
GREEDY = SamplingParams(top_k=1)
PROMPTS = PromptTemplates.from_tokenizer(byte_tokenizer())
FORMAT, V = PROMPTS.document_format, PROMPTS.tokenizer.vocabulary


class Published:
    """The tiny checkpoint of the reference, and what the original code answered."""

    def __init__(self, folder: Path) -> None:
        self.decoder = load_decoder(folder / "Emu3-Gen-tiny", FP32, CPU)
        self.prompts = PromptTemplates.from_tokenizer(
            TextTokenizer.from_folder(folder / "Emu3-Gen-tiny")
        )
        self.tensors = load_file(folder / "golden.safetensors")
        self.golden: dict[str, Any] = json.loads((folder / "golden.json").read_text("utf-8"))

    def sample(
        self, texts: list[str], ratios: list[str]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts, and prompts with what follows them up to EOS."""
        area = self.decoder.config.image_area
        sizes = [size_in_codes(ratio, area, 8) for ratio in ratios]
        pairs = list(zip(texts, sizes, strict=True))
        rows = [self.prompts.image(text + QUALITY_SUFFIX, size) for text, size in pairs]
        negatives = [self.prompts.image(NEGATIVE_PROMPT, size) for size in sizes]
        seeds = [0] * len(rows)
        out = generate_visual(
            self.decoder, self.prompts.document_format, rows, negatives, sizes, GREEDY, 3.0, seeds
        )
        pad = self.prompts.tokenizer.vocabulary.pad
        whole = [
            [*row, *(i for i in new if i != pad)]
            for row, new in zip(rows, out.tolist(), strict=True)
        ]
        return negatives, whole


@pytest.fixture(scope="module")
def published(reference: Path) -> Published:
    return Published(reference)


def test_images_equal_baai(published: Published) -> None:
    """Alone and in a batch; BAAI's own batch differs, as the documentation explains."""
    single, batch = published.golden["single"], published.golden["batch"]
    cases = [
        ("single", [single["prompts"]], [single["ratios"]]),
        ("batch0", batch["prompts"][:1], batch["ratios"][:1]),
        ("batch1", batch["prompts"][1:], batch["ratios"][1:]),
    ]
    for key, texts, ratios in cases:
        negatives, whole = published.sample(texts, ratios)
        assert negatives[0] == published.tensors[f"{key}.neg_ids"][0].tolist()
        assert whole[0] == published.tensors[f"{key}.output"][0].tolist()
    _, whole = published.sample(batch["prompts"], batch["ratios"])
    for index, ids in enumerate(whole):
        assert ids == published.tensors[f"batch{index}.output"][0].tolist()


def test_answers_equal_baai(published: Published) -> None:
    """The prompts with their images, what follows them alone, and in one batch."""
    tensors, v = published.tensors, published.prompts.tokenizer.vocabulary
    rows = [
        published.prompts.chat(question, [tensors[f"vq.codes{index}"][0]])
        for index, question in enumerate(published.golden["chat"])
    ]
    outputs = [tensors[f"chat{index}.output"][0].tolist() for index in range(2)]
    assert rows == [tensors[f"chat{index}.input_ids"][0].tolist() for index in range(2)]
    new = len(outputs[0]) - len(rows[0])
    for row, output in zip(rows, outputs, strict=True):
        out = generate_text(published.decoder, [row], v.eos, v.pad, new, GREEDY, [0])
        assert row + out[0].tolist() == output
    both = generate_text(published.decoder, rows, v.eos, v.pad, new, GREEDY, [0, 0])
    assert [row + out for row, out in zip(rows, both.tolist(), strict=True)] == outputs


@torch.no_grad()
def slow_image(
    model: Transformer,
    document_format: DocumentFormat,
    prompt: Sequence[int],
    negative: Sequence[int] | None,
    size: tuple[int, int],
    sampling: SamplingParams,
    scale: float,
    seed: int,
    groups: int = 1,
) -> list[int]:
    """One image without a cache: the whole sequence and the whole vocabulary at each step."""
    v, noise, new = document_format.vocabulary, GumbelNoise([seed], CPU), list[int]()
    for step in range(document_format.num_tokens(*size, groups) + 1):
        if new and new[-1] == v.eof:
            noise = GumbelNoise([frame_seed(seed, new.count(v.eof))], CPU)
        logits = model(torch.tensor([[*prompt, *new]]))[:, -1]
        if negative is not None:
            logits = apply_cfg(logits, model(torch.tensor([[*negative, *new]]))[:, -1], scale)
        low, high = document_format.allowed_range(*size, step, groups)
        allowed = torch.full_like(logits, -torch.inf)
        allowed[:, low:high] = logits[:, low:high]
        if high - low > 1 and not sampling.greedy:
            gumbel = torch.zeros_like(logits)
            gumbel[:, v.visual] = noise.gumbel(v.codebook_size)
            allowed = sampling.filter_logits(allowed) + gumbel
        new.append(int(allowed.argmax()))
    return new


@torch.no_grad()
def slow_text(
    model: Transformer,
    prompt: Sequence[int],
    stop: int,
    most: int,
    sampling: SamplingParams,
    seed: int,
) -> list[int]:
    noise, new = GumbelNoise([seed], CPU), list[int]()
    while len(new) < most and stop not in new:
        logits = model(torch.tensor([[*prompt, *new]]))[:, -1]
        new.append(int(sampling.sample(logits, noise)))
    return new


SIZES = [(2, 5), (4, 3), (1, 1), (3, 2)]
ROWS = [PROMPTS.image("ab" * index, size) for index, size in enumerate(SIZES)]
NEGATIVES = [PROMPTS.image("ugly", size) for size in SIZES]
SAMPLINGS = [
    GREEDY,
    SamplingParams(top_k=0),
    SamplingParams(top_k=9, temperature=1.5),
    SamplingParams(0, 0.8),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("guided", [True, False])
def test_batched_images_equal_the_uncached_loop(sampling: SamplingParams, guided: bool) -> None:
    """Prompts of different lengths, images of different sizes: each as the slow loop draws it."""
    model = tiny_decoder(initializer_range=0.3)
    negatives = NEGATIVES if guided else None
    seeds = [4, 5, 6, 7]
    out = generate_visual(model, FORMAT, ROWS, negatives, SIZES, sampling, 3.0, seeds)
    steps = max(FORMAT.num_tokens(*size) for size in SIZES) + 1
    assert out.shape == (4, steps)
    for index, size in enumerate(SIZES):
        slow = slow_image(
            model,
            FORMAT,
            ROWS[index],
            NEGATIVES[index] if guided else None,
            size,
            sampling,
            3.0,
            seeds[index],
        )
        assert out[index].tolist() == slow + [V.pad] * (steps - len(slow))
        assert slow[-1] == V.eos


def test_batched_images_equal_single_ones() -> None:
    model = tiny_decoder(initializer_range=0.3)
    sampling = SamplingParams(top_k=20)
    together = generate_visual(model, FORMAT, ROWS, NEGATIVES, SIZES, sampling, 2.0, [1] * 4)
    for index, size in enumerate(SIZES):
        one = slice(index, index + 1)
        alone = generate_visual(
            model, FORMAT, ROWS[one], NEGATIVES[one], [size], sampling, 2.0, [1]
        )
        assert together[index, : alone.shape[1]].tolist() == alone[0].tolist()
        assert (together[index, alone.shape[1] :] == V.pad).all()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_batched_videos_equal_the_uncached_loop(sampling: SamplingParams) -> None:
    """An image among videos of several lengths; then the same with some codes given."""
    model, groups, seeds = tiny_decoder(initializer_range=0.3), [3, 1, 4, 2], [4, 5, 6, 7]
    rows = [
        PROMPTS.video("ab" * index, size, 8, 4 * count) if count > 1 else ROWS[index]
        for index, (size, count) in enumerate(zip(SIZES, groups, strict=True))
    ]
    settings = (SIZES, sampling, 3.0, seeds)
    out = generate_visual(model, FORMAT, rows, NEGATIVES, *settings, groups=groups)
    for index, size in enumerate(SIZES):
        slow = slow_image(
            model,
            FORMAT,
            rows[index],
            NEGATIVES[index],
            size,
            sampling,
            3.0,
            seeds[index],
            groups[index],
        )
        assert out[index].tolist() == slow + [V.pad] * (out.shape[1] - len(slow))
    known = [(ids[ids >= V.visual_start] - V.visual_start)[:3].tolist() for ids in out]
    again = generate_visual(model, FORMAT, rows, NEGATIVES, *settings, groups=groups, known=known)
    assert torch.equal(again, out)
    assert frame_seed(2**63 - 1, 3) < 2**64


def test_guidance_of_one_needs_no_negative_prompt() -> None:
    model, size = tiny_decoder(), [(2, 3)]
    row, negative = ROWS[:1], NEGATIVES[:1]
    generated = [
        generate_visual(model, FORMAT, row, other, size, SamplingParams(), scale, [0]).tolist()
        for other, scale in [(negative, 1.0), (None, 1.0), (None, 5.0), (negative, 5.0)]
    ]
    assert generated[0] == generated[1] == generated[2] != generated[3]


def test_on_step_gets_all_ids_so_far() -> None:
    calls: list[tuple[int, Tensor]] = []
    out = generate_visual(
        tiny_decoder(),
        FORMAT,
        ROWS,
        NEGATIVES,
        SIZES,
        GREEDY,
        3.0,
        [0] * 4,
        lambda step, ids: calls.append((step, ids.clone())),
    )
    assert [step for step, _ in calls] == list(range(out.shape[1]))
    assert all(torch.equal(ids, out[:, : step + 1]) for step, ids in calls)


TEXTS = [[V.bos, *b"hello there"], [V.bos, 65], [V.bos, *b"what is it?"]]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_batched_text_equals_the_uncached_loop(sampling: SamplingParams) -> None:
    """A row ends at its own stop id and is filled up with PAD, until the last row ends."""
    model = tiny_decoder(initializer_range=0.4)
    seeds, most = [1, 2, 3], 12
    free = [
        slow_text(model, row, -1, most, sampling, seed)
        for row, seed in zip(TEXTS, seeds, strict=True)
    ]
    stop = free[1][4]  # so that at least one row stops early
    slow = [
        slow_text(model, row, stop, most, sampling, seed)
        for row, seed in zip(TEXTS, seeds, strict=True)
    ]
    assert len(slow[1]) < most
    out = generate_text(model, TEXTS, stop, V.pad, most, sampling, seeds)
    longest = max(map(len, slow))
    assert out.tolist() == [row + [V.pad] * (longest - len(row)) for row in slow]


def test_generation_stops_when_all_rows_have_stopped() -> None:
    model = tiny_decoder()
    stop = slow_text(model, TEXTS[0], -1, 1, GREEDY, 0)[0]
    steps: list[int] = []
    out = generate_text(
        model, TEXTS[:1], stop, V.pad, 50, GREEDY, [0], lambda step, ids: steps.append(step)
    )
    assert out.tolist() == [[stop]]
    assert steps == [0]
