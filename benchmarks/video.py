"""A clip drawn four ways, with equal ids: `python -m benchmarks.video --clips 6`.

*Nothing kept*: every pass reads all ids again. *A token a pass*: `generate.py`, with a cache. *A
code a pass*: forced ids ride along. *Windows*: as many codes a pass as were guessed rightly; the
first guess of a code is the one at its place a frame before. All draw the same captions with the
same seeds, one clip after another, and the codes of each way must be those of the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from emu3 import Emu3
from emu3.inference.model_runner import ModelRunner
from emu3.inference.reference import generate_visual
from emu3.inference.sampling import GumbelNoise, SamplingParams, apply_cfg, frame_seed
from emu3.inference.sequences import VisualSequence
from emu3.inference.speculative import draft_length_for
from emu3.progress import count_progress
from recipes.nano.emoji_world import full_video_caption, held_out_motions
from recipes.nano.evaluation.video_evaluation import choose_scenes

SIZE, FRAMES, FPS = (8, 8), 16, 8


@dataclass(frozen=True)
class Asked:
    """One clip to be drawn: the prompts of both branches, and a seed."""

    prompts: list[list[int]]
    seed: int


@dataclass(frozen=True)
class Ways:
    """A model, and the ways in which it draws."""

    m: Emu3
    sampling: SamplingParams
    scale: float

    @property
    def groups(self) -> int:
        """Frames of codes in a clip."""
        return self.m.checkpoint.prompts.document_format.num_groups(FRAMES)

    def nothing_kept(self, asked: Asked) -> tuple[Tensor, int]:
        """No cache: each code is what all ids before it, read anew, say."""
        document_format = self.m.checkpoint.prompts.document_format
        start = document_format.vocabulary.visual_start
        steps = document_format.num_tokens(*SIZE, self.groups)
        forced = document_format.forced_tokens(*SIZE, steps, self.groups).tolist()
        ids, noise, passes, codes = (
            list[int](),
            GumbelNoise([0], torch.device("cpu")),
            0,
            list[int](),
        )
        for step in range(steps):
            if len(codes) % 64 == 0 and forced[step] < 0:
                noise.generators[0].manual_seed(frame_seed(asked.seed, len(codes) // 64))
            if forced[step] >= 0:
                ids.append(forced[step])
                continue
            logits = self._logits(asked, ids)
            code = int(self.sampling.sample(logits, noise))
            passes += 1
            codes.append(code)
            ids.append(code + start)
        return torch.tensor(codes).view(-1, *SIZE), passes

    def _logits(self, asked: Asked, ids: list[int]) -> Tensor:
        model = self.m.checkpoint.decoder
        visual = self.m.checkpoint.prompts.document_format.vocabulary.visual
        rows = [
            model.compute_logits(
                model.forward_hidden(torch.tensor([[*prompt, *ids]]))[:, -1], visual
            )
            for prompt in asked.prompts
        ]
        return apply_cfg(rows[0], rows[1], self.scale) if len(rows) > 1 else rows[0]

    def token(self, asked: Asked) -> tuple[Tensor, int]:
        """`generate_visual`: a cache, and a pass for each token, line ends too."""
        document_format = self.m.checkpoint.prompts.document_format
        ids = generate_visual(
            self.m.checkpoint.decoder,
            document_format,
            [asked.prompts[0]],
            [asked.prompts[1]] if len(asked.prompts) > 1 else None,
            [SIZE],
            self.sampling,
            self.scale,
            [asked.seed],
            groups=[self.groups],
        )[0]
        visual = document_format.vocabulary.visual
        codes = ids[(ids >= visual.start) & (ids < visual.stop)] - visual.start
        return codes.view(-1, *SIZE), len(ids) - 1

    def windows(self, asked: Asked, window: int) -> tuple[Tensor, int]:
        """Speculative decoding with drafts of so many codes."""
        document_format = self.m.checkpoint.prompts.document_format
        sequence = VisualSequence(
            asked.prompts,
            SIZE,
            asked.seed,
            document_format,
            self.sampling,
            self.scale,
            groups=self.groups,
        )
        ModelRunner(self.m.checkpoint.decoder, document_format.vocabulary, window).run([sequence])
        return sequence.finished_frames(), sequence.steps


Draw = Callable[[Asked], tuple[Tensor, int]]


def main(clips: int) -> None:
    """Draw, compare, and print a table."""
    m = Emu3.from_pretrained("nano")
    card, prompts = m.checkpoint.defaults, m.checkpoint.prompts
    ways = Ways(m, SamplingParams(card.top_k, 1.0, card.temperature), card.guidance_scale)
    scenes = choose_scenes(np.random.default_rng(0), held_out_motions(), clips)
    texts = [[full_video_caption(scene), card.negative_prompt] for scene in scenes]
    asked = [
        Asked([prompts.video(text, SIZE, FPS, FRAMES) for text in both], seed)
        for seed, both in enumerate(texts)
    ]
    many = draft_length_for(m.checkpoint.decoder, 2)
    rows: dict[str, Draw] = {
        "nothing kept": ways.nothing_kept,
        "a token a pass (generate.py)": ways.token,
        "a code a pass": lambda a: ways.windows(a, 1),
        f"windows of {many}": lambda a: ways.windows(a, many),
    }
    table = Table(title=f"{clips} clips of {FRAMES} frames, {ways.groups * 64} codes, guided")
    for column in ("", "codes/s", "s a clip", "passes", "times", "codes equal to the first"):
        table.add_column(column, justify="left" if not column else "right")
    first, slowest = list[Tensor](), 0.0
    with torch.inference_mode(), count_progress("drawing", clips * len(rows)) as advance:
        for name, draw in rows.items():
            draw(asked[0])  # once for nothing: the first call builds things
            drawn, passes, spent = list[Tensor](), 0, 0.0
            for each in asked:
                begun = perf_counter()
                codes, count = draw(each)
                spent += perf_counter() - begun
                drawn.append(codes)
                passes += count
                advance(1)
            first, slowest = first or drawn, slowest or spent
            equal = torch.stack([a == b for a, b in zip(first, drawn, strict=True)])
            total = equal.numel()
            table.add_row(
                name,
                f"{total / spent:.0f}",
                f"{spent / clips:.2f}",
                f"{passes / clips:.0f}",
                f"{slowest / spent:.1f}x",
                f"{int(equal.sum())} of {total}",
            )
    Console(width=110).print(table)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {m.checkpoint.precision}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--clips", type=int, default=6)
    main(parser.parse_args().clips)
