"""The list of objects and their display names."""

from __future__ import annotations

import pytest

from recipes.nano.emoji_world import OBJECTS, display_name, mirrorable, objects, with_article


def test_400_objects_have_different_names() -> None:
    assert len(OBJECTS) == len(set(OBJECTS)) == 400
    assert len({display_name(name) for name in OBJECTS}) == 400
    assert len({with_article(name) for name in OBJECTS}) == 400


@pytest.mark.parametrize(
    ("name", "expected"),
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
def test_articles(name: str, expected: str) -> None:
    assert name in OBJECTS
    assert with_article(name) == expected


def test_exceptions_are_objects_of_the_list() -> None:
    tables = (
        objects._DISPLAY_NAMES,
        objects._NO_ARTICLE,
        objects._ARTICLE,
        objects._NOT_MIRRORABLE,
    )
    for table in tables:
        assert set(table) <= set(OBJECTS)


def test_display_names_are_ascii_words() -> None:
    for name in OBJECTS:
        assert display_name(name).replace(" ", "").replace("-", "").isalpha()
        assert display_name(name).isascii()


def test_clock_faces_are_not_mirrored() -> None:
    assert not mirrorable("watch")
    assert mirrorable("red-apple")
