"""The list of objects and how they are said."""

from __future__ import annotations

import pytest

from recipes.nano.emoji_world import OBJECTS, mirrorable, objects, spoken, with_article


def test_there_are_400_different_objects_with_different_spoken_names() -> None:
    assert len(OBJECTS) == len(set(OBJECTS)) == 400
    assert len({spoken(name) for name in OBJECTS}) == 400
    assert len({with_article(name) for name in OBJECTS}) == 400


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("red-apple", "a red apple"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("hourglass-done", "an hourglass"),
        ("french-fries", "french fries"),
        ("scissors", "scissors"),
        ("bread", "bread"),
        ("bug", "a caterpillar"),
    ],
)
def test_articles(name: str, said: str) -> None:
    assert name in OBJECTS
    assert with_article(name) == said


def test_every_exception_is_about_an_object_of_the_list() -> None:
    tables = (objects._SPOKEN, objects._NO_ARTICLE, objects._ARTICLE, objects._NOT_MIRRORABLE)
    for table in tables:
        assert set(table) <= set(OBJECTS)


def test_spoken_names_are_plain_ascii_words() -> None:
    for name in OBJECTS:
        assert spoken(name).replace(" ", "").replace("-", "").isalpha()
        assert spoken(name).isascii()


def test_a_clock_face_is_not_mirrored_and_an_apple_may_be() -> None:
    assert not mirrorable("watch")
    assert mirrorable("red-apple")
