"""An experiment that was not kept: `python -m benchmarks.coupled_windows`.

Windows of `emu3.inference.speculative` keep a guess if the pass draws the same code with the noise of its place.
Speculative Jacobi decoding with coupling (arXiv 2410.01699; going on past the first rejection:
arXiv 2510.24211) keeps it with min(1, p/q), the largest chance there is, and draws from (p - q)+
else. Both draw from the model's distribution; only the first draws what one code a pass draws, so
that a seed names a picture. Here both draw the same prompts with nano, and passes are counted:
coupling saves at most 4 in a hundred of them, which is not worth that (docs/speed.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emu3 import Emu3
from emu3.inference.sampling import SamplingParams
from emu3.inference.speculative import JacobiDecoder, VisualSequence
from emu3.models.kv_cache import KVCache

PROMPTS = [
    f"{thing}, {style} style"
    for thing in ("a red apple", "a tiger", "a sunflower", "an owl", "a car", "a pizza", "a house")
    for style in ("noto", "fluent", "twemoji")
]
WINDOWS = (4, 8, 16, 32)


@dataclass
class CoupledPicture(VisualSequence):
    """A picture whose guesses come with the distributions they were drawn from."""

    drawn_from: list[Tensor] = field(default_factory=list)


class Coupled(JacobiDecoder):
    """Windows with acceptance by probability."""

    @torch.inference_mode()
    def step(self, active: Sequence[VisualSequence], cache: KVCache) -> None:
        """One pass."""
        counts = [picture.window(self.window) for picture in active]
        guesses = [p.guessed(count) for p, count in zip(active, counts, strict=True)]
        spans, ends, starts = list[list[int]](), list[list[int]](), iter(cache.lengths)
        for picture, guess, count in zip(active, guesses, counts, strict=True):
            for prompt in picture.prompts:
                start = next(starts)
                spans.append(self.span(picture, guess[:-1], prompt, start))
                ends.append(self.ends(picture, count, len(prompt), start))
        kept = self.sampling.filter(self.ask(spans, ends, cache)).softmax(-1)
        for picture, guess, now in zip(active, guesses, kept, strict=True):
            assert isinstance(picture, CoupledPicture)
            couple(picture, guess, now[: len(guess)])
        cache.truncate(
            [
                len(prompt)
                + self.document_format.token_offset(picture.size[1], len(picture.codes) - 1)
                for picture in active
                for prompt in picture.prompts
            ]
        )


def couple(picture: CoupledPicture, guess: list[int], now: Tensor) -> None:
    """Keep or redraw each guess; commit up to the first that was redrawn, that one included."""
    codes, right, whole = list[int](), 0, True
    for k, p in enumerate(now):
        before = picture.drawn_from[k] if k < len(picture.drawn_from) else None
        accepted = before is not None and bool(torch.rand(()) * before[guess[k]] < p[guess[k]])
        rest = p if before is None else (p - before).clamp_min(0)
        codes.append(guess[k] if accepted else int(torch.multinomial(rest, 1)))
        right, whole = right + whole, whole and accepted
    picture.codes += codes[:right]
    picture.guess, picture.drawn_from = codes[right:], list(now[right:])
    picture.passes += 1


def main() -> None:
    checkpoint = Emu3.from_pretrained("nano").checkpoint
    prompts = checkpoint.prompts
    negative, size = prompts.image("", (8, 8)), (8, 8)
    settings = checkpoint.decoder, prompts.document_format, SamplingParams(), 3.0
    for window in WINDOWS:
        torch.manual_seed(0)
        means = []
        for kind, drawing in ((VisualSequence, JacobiDecoder), (CoupledPicture, Coupled)):
            pictures = [
                kind([prompts.image(text, size), negative], size, seed)
                for seed, text in enumerate(PROMPTS)
            ]
            drawing(*settings, window).run(pictures)
            means.append(sum(picture.passes for picture in pictures) / len(pictures))
        print(f"window {window}: fixed noise {means[0]:.1f} passes of 64, coupled {means[1]:.1f}")


if __name__ == "__main__":
    main()
