"""nano's decoder on pictures and clips: `python -m recipes.nano_moving runs/moving`.

Goes on from the nano that comes with the package, with a block more, on what it has learned from
before and on Emoji World in motion, in a course: first clips to follow, in which little moves, then
everything that is drawn and asked about. Run again from what came of it, it goes on with that.
Kill it whenever you like: the same command goes on. Then `python -m recipes.nano runs/moving` puts
the decoder in place of the package's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emu3.models.transformer import Transformer
from emu3.processing.tokenizer import TextTokenizer
from emu3.training.compilation import MULTIPLE
from emu3.training.lm_loss import Document
from recipes import further_things, nano_decoder, nano_longer
from recipes.clip_lessons import ClipLessons, ClipMix
from recipes.looking_back import deeper
from recipes.loose_words import LooseWords
from recipes.nano.emoji_world import Hands
from recipes.nano_decoder import Lessons, Mix, config_for

RUN = replace(
    nano_decoder.RUN,
    steps=140,
    micro_batch=8,
    learning_rate=1e-3,
    warmup=10,
    hold=20,
    schedule="linear",
    multiple=4 * MULTIPLE,  # clips are of many lengths, and each is compiled by itself
    seed=13,
)

FOLLOWING = {80: 0, 150: 1, 200: 2, 270: 4, 500: 8}
"""Until which step how many directions are followed; from then on everything moves.

A decoder that has its block more has been through this, and goes on with everything.
"""

FEWER = 4  # variations of drawings than are made for a decoder that only learns pictures
STILLS = Mix(drawn=14, asked=2, named=50, others=4)
FURTHER = Mix(drawn=12, asked=0, named=0)  # of things that are known in two styles alone
STILLS_WEIGHT = 2.0  # clips are longer, and of their codes many are easily foreseen
FOLLOWED, ASIDE = 16, ClipMix(which_way=10)  # clips to follow, and what else there is then
MIX = ClipMix(drawn=4, longer=2, asked=5, which_way=3)

LOOKS_BACK = 2  # where a block is put in whose heads look back
GROUP, HEADS = 73, 6  # ids of a group: eight rows of eight codes and EOL, and EOF
FITTED_TO = ClipMix(drawn=48, asked=4)


@dataclass
class Course:
    """What is taught in each step; how many there were is part of a checkpoint."""

    stills: Lessons
    further: Lessons
    clips: ClipLessons
    following: Mapping[int, int]
    step: int = 0

    def __call__(self, rng: np.random.Generator) -> list[Document]:
        """The documents of the next step."""
        ways = next((ways for until, ways in self.following.items() if self.step < until), None)
        self.step += 1
        stills = [
            replace(each, weights=STILLS_WEIGHT * each.weights)
            for each in [*self.stills(rng), *self.further(rng)]
        ]
        if ways is None:
            return stills + self.clips(rng, MIX)
        return stills + self.clips(rng, ASIDE) + self.clips.followed(rng, FOLLOWED, ways)

    def state_dict(self) -> int:
        """Steps so far."""
        return self.step

    def load_state_dict(self, state: int, /) -> None:
        """Go on from so many steps."""
        self.step = state


def main(folder: Path) -> Transformer:
    """Train the package's decoder further, one block deeper; its tokenizers stay what they are."""
    nano, hands = nano_longer.opened(folder), Hands.load()
    words = LooseWords(hands.drew)
    stills = nano_longer.lessons_for(nano, STILLS, hands, folder, FEWER, RUN.seed, words.picture)
    further = further_things.lessons(FURTHER, nano.vision_processor.vision, nano.text_tokenizer)
    clips = ClipLessons.of(
        nano.vision_processor.vision, nano.text_tokenizer, hands.icons, words.clip
    )
    grown = looking_back(nano.decoder, nano.text_tokenizer, clips)
    course = Course(stills, further, clips, {} if grown is nano.decoder else FOLLOWING)
    decoder = nano_longer.ready(grown, RUN)
    return nano_decoder.learn(
        decoder, nano.text_tokenizer, nano.vision_processor.vision, RUN, folder, course
    )


def looking_back(decoder: Transformer, text: TextTokenizer, clips: ClipLessons) -> Transformer:
    """The decoder with a block that looks back to the group before, unless it has one."""
    if len(decoder.model.layers) > config_for(text).num_hidden_layers:
        return decoder
    rows = [each.ids for each in clips(np.random.default_rng(8), FITTED_TO)]
    # From the id before a code to the one at its place a group earlier.
    return deeper(decoder, LOOKS_BACK, [GROUP - 1] * HEADS, rows, text.vocabulary.visual)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/moving"))
