"""The course that nano's decoder takes in clips, and the block that it takes it with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emu3.testing import byte_tokenizer
from emu3.training.decoder import fresh
from recipes.clip_lessons import ClipLessons
from recipes.further_things import pairs, said
from recipes.nano.emoji_world import Icons
from recipes.nano_decoder import Lessons, Mix, config_for
from recipes.nano_moving import (
    ASIDE,
    FOLLOWED,
    FOLLOWING,
    MIX,
    Course,
    looking_back,
)
from tests.recipes.test_nano_decoder import Flat

TEXT = byte_tokenizer(2048)
STILLS, FURTHER = Mix(drawn=3, asked=1, named=0), Mix(drawn=2, asked=0, named=0)


@pytest.fixture(scope="module")
def course(icons: Icons) -> Course:
    stills, clips = Lessons(STILLS, Flat(), TEXT, icons), ClipLessons.of(Flat(), TEXT, icons)
    further = Lessons(FURTHER, Flat(), TEXT, icons, say=said, pairs=pairs())
    return Course(stills, further, clips, FOLLOWING)


def test_first_clips_are_followed_then_there_is_everything(course: Course) -> None:
    rng, last = np.random.default_rng(0), max(FOLLOWING)
    before = replace(course, step=last - 1)
    stills = STILLS.drawn + STILLS.asked + FURTHER.drawn
    assert (len(before(rng)), before.step) == (stills + ASIDE.which_way + FOLLOWED, last)
    assert len(before(rng)) == stills + MIX.drawn + MIX.longer + MIX.asked + MIX.which_way


def test_who_has_been_through_it_has_everything_at_once(course: Course) -> None:
    again = replace(course, following={})(np.random.default_rng(0))
    stills = STILLS.drawn + STILLS.asked + FURTHER.drawn
    assert len(again) == stills + MIX.drawn + MIX.longer + MIX.asked + MIX.which_way


def test_more_and_more_ways_are_followed(course: Course) -> None:
    begun = replace(course)
    followed = [
        min(len(each.ids) for each in begun(np.random.default_rng(0))[-FOLLOWED:]) for _ in range(2)
    ]
    assert begun.step == 2
    begun.load_state_dict(next(iter(FOLLOWING)))
    later = begun(np.random.default_rng(0))[-FOLLOWED:]
    assert min(len(each.ids) for each in later) > max(followed)
    assert begun.state_dict() == next(iter(FOLLOWING)) + 1


def test_a_block_is_put_in_once(course: Course) -> None:
    decoder = fresh(config_for(TEXT), seed=0)
    grown = looking_back(decoder, TEXT, course.clips)
    assert len(grown.model.layers) == len(decoder.model.layers) + 1
    assert looking_back(grown, TEXT, course.clips) is grown
