"""What a decoder sees of the ways things go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from emu3.models.transformer import Transformer
from emu3.processing.prompts import PromptTemplates
from emu3.testing import byte_tokenizer
from emu3.training.decoder import fresh
from recipes.clip_codes import CodesOfClips
from recipes.clip_direction import EACH, answered, begun_right, gone_on, slides
from recipes.nano.emoji_world import Icons
from recipes.nano_decoder import config_for
from tests.recipes.test_nano_decoder import Flat

TEXT = byte_tokenizer(2048)


class Knowing(Transformer):
    """A decoder that foresees one document, but for the places where it is told to be wrong."""

    ids: Tensor
    wrong: Tensor

    def forward(self, input_ids: Tensor, *_: object) -> Tensor:
        said = self.ids[1:].clone()
        said[self.wrong] = 0
        return torch.eye(TEXT.vocabulary.size)[said][None]


def knowing(ids: Tensor, wrong: list[int]) -> Knowing:
    decoder = Knowing(fresh(config_for(TEXT), seed=0).config)
    decoder.ids, decoder.wrong = ids, torch.tensor(wrong, dtype=torch.long)
    return decoder


def test_a_group_begins_right_where_all_is_right_up_to_the_first_change() -> None:
    codes = torch.zeros(4, 2, 2, dtype=torch.long)
    codes[1:, 0, 1] = 1  # the second group differs in its second code, the third in none
    codes[3, 1, 0] = 2  # the fourth in its third
    assert begun_right(torch.ones_like(codes).bool(), codes).tolist() == [True] * 3
    for place, hurt in (((1, 0, 1), 0), ((1, 0, 0), 0), ((2, 1, 1), 1), ((3, 0, 0), 2)):
        right = torch.ones_like(codes).bool()
        right[place] = False
        assert begun_right(right, codes).logical_not().nonzero().flatten().tolist() == [hurt]
    behind = torch.ones_like(codes).bool()
    behind[1, 1], behind[3, 1, 1], behind[0] = False, False, False
    assert begun_right(behind, codes).all()


@pytest.fixture(scope="module")
def clip(icons: Icons) -> tuple:
    return next(slides(CodesOfClips(Flat(), icons), groups=3))


def test_only_the_answer_has_to_be_right(clip: tuple) -> None:
    prompts, (scene, video) = PromptTemplates.from_tokenizer(TEXT), clip
    ids, said = prompts.chat_document(video, [("How does it move?", "to the right")])
    answer = int(said.nonzero()[0, 0])
    assert answered(knowing(ids, list(range(answer - 1))), prompts, scene, video)
    assert not answered(knowing(ids, [answer - 1]), prompts, scene, video)


def test_who_foresees_everything_goes_on_right(clip: tuple) -> None:
    prompts, (_, video) = PromptTemplates.from_tokenizer(TEXT), clip
    ids = prompts.document("", video)
    assert gone_on(knowing(ids, []), prompts, "", video).tolist() == [True, True]
    assert not gone_on(knowing(ids, list(range(len(ids) - 1))), prompts, "", video).any()


def test_all_directions_are_looked_at_equally(icons: Icons) -> None:
    motions = [scene.motion for scene, _ in slides(CodesOfClips(Flat(), icons), groups=2)]
    assert {motions.count(each) for each in motions} == {EACH}
