"""Packing efficiency: `python -m benchmarks.packing`.

Documents of the presets at the published size, packed into rows of their context length as in
training. Images have the areas of the preset in ratios from 1:2 to 2:1, videos 8 to 40 frames of
codes of 256x256 pixels, captions 20 to 150 ids, answers 10 to 400; texts are 1 to 20,000 ids long,
half of them below 600. BAAI disclosed no mixture: these proportions and lengths are ours. `alone`
is one row per document, or per piece of a text that is too long.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from emu3.data.packing import (
    BUFFER_SIZE,
    DocumentSpan,
    pack_rows,
    packing_efficiency,
    split_document,
)
from emu3.processing.document_format import DocumentFormat
from emu3.processing.image import size_in_codes
from emu3.training.presets import INSTRUCTION, PRETRAINING_1, PRETRAINING_2, QUALITY, Preset

FACTOR = 8  # pixels of a code's side
NUM_SPECIAL = 4  # special and template tokens of a document, BOS and EOS included
MIXTURES: tuple[tuple[Preset, dict[str, float]], ...] = (
    (PRETRAINING_1, {"text": 0.5, "image": 0.5}),
    (PRETRAINING_2, {"text": 0.4, "image": 0.4, "clip": 0.2}),
    (QUALITY, {"image": 1.0}),
    (INSTRUCTION, {"image": 0.7, "text": 0.3}),
)


def text(random: np.random.Generator, stage: Preset) -> int:
    """Token ids of a page of text."""
    return int(np.clip(random.lognormal(np.log(600), 1.2), 1, 20_000)) + NUM_SPECIAL


def image(random: np.random.Generator, stage: Preset) -> int:
    """Token ids of an image in the areas of the preset, and of its text."""
    wide, area = 2 ** random.uniform(-1, 1), random.uniform(*stage.image_areas)
    height, width = size_in_codes(f"{round(100 * wide)}:100", int(area), FACTOR)
    text_tokens = random.integers(10, 400) if stage is INSTRUCTION else random.integers(20, 150)
    return DocumentFormat.num_tokens(height, width) + int(text_tokens) + NUM_SPECIAL


def clip(random: np.random.Generator, stage: Preset) -> int:
    """Token ids of a video and its caption."""
    return DocumentFormat.num_tokens(32, 32, int(random.integers(8, 41))) + int(
        random.integers(20, 150)
    )


KINDS = {"text": text, "image": image, "clip": clip}


def pieces(stage: Preset, shares: dict[str, float], count: int) -> tuple[list[DocumentSpan], int]:
    """Documents to pack, and the number of those longer than a row."""
    random, made, left_out = np.random.default_rng(0), list[DocumentSpan](), 0
    for number in range(count):
        kind = str(random.choice(list(shares), p=list(shares.values())))
        length = KINDS[kind](random, stage)
        if kind == "text":
            made += split_document(0, number, length, stage.context_length)
        elif length <= stage.context_length:
            made.append(DocumentSpan(1, number, 0, length))
        else:
            left_out += 1
    return made, left_out


def main() -> None:
    """Print a line of JSON for each preset."""
    parser = argparse.ArgumentParser(description="How full rows are.")
    parser.add_argument("--documents", type=int, default=20_000)
    count = parser.parse_args().documents
    for stage, shares in MIXTURES:
        waiting, left_out = pieces(stage, shares, count)
        rows = list(pack_rows(waiting, stage.context_length))
        figures = {
            "stage": stage.name,
            "context": stage.context_length,
            "documents": shares,
            "left_out": left_out,
            "rows": len(rows),
            "packed": round(packing_efficiency(rows, stage.context_length), 4),
            "alone": round(
                packing_efficiency([(piece,) for piece in waiting], stage.context_length), 4
            ),
            "waiting": BUFFER_SIZE,
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
