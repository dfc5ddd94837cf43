"""A line of JSONL is one of three samples, or an error that says which fault it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emu3.data.samples import ImageFile, Sample, VideoFile, parse_line
from emu3.errors import InputError

FOLDER = Path("there")
TURN = {"question": "q", "answer": "a"}


def read(value: object) -> Sample:
    return parse_line(json.dumps(value).encode(), FOLDER)


def test_the_three_kinds() -> None:
    image = ImageFile(FOLDER / "a.png")
    assert read({"text": "words"}) == Sample(text="words")
    assert read({"image": "a.png", "text": "words"}) == Sample(text="words", image=image)
    looked = read({"image": "a.png", "turns": [TURN, TURN]})
    assert looked == Sample(image=image, turns=(("q", "a"), ("q", "a")))
    clip = VideoFile(FOLDER / "a.mp4")
    assert read({"video": "a.mp4", "text": "words"}) == Sample(text="words", video=clip)
    assert read({"video": "a.mp4", "turns": [TURN]}) == Sample(video=clip, turns=(("q", "a"),))


FAULTS: dict[str, tuple[object, str]] = {
    "nothing": ({}, 'neither "text" nor "turns"'),
    "a picture alone": ({"image": "a.png"}, 'neither "text" nor "turns"'),
    "both": ({"image": "a.png", "text": "t", "turns": [TURN]}, "together"),
    "turns alone": ({"turns": [TURN]}, 'without an "image"'),
    "another key": ({"text": "t", "label": 3}, "unknown key 'label'"),
    "a picture and a clip": ({"image": "a.png", "video": "a.mp4", "text": "t"}, "together"),
    "a clip alone": ({"video": "a.mp4"}, 'neither "text" nor "turns"'),
    "a number": ({"text": 3}, "a number where a string"),
    "null": ({"text": None}, "null where a string"),
    "a list of paths": ({"image": ["a.png"], "text": "t"}, '"image": a list or an object'),
    "blank": ({"text": " \n"}, "blank"),
    "a blank answer": ({"image": "a", "turns": [{**TURN, "answer": ""}]}, '"answer" is blank'),
    "half a pair": ({"text": "\ud800"}, "surrogate"),
    "no turns": ({"image": "a", "turns": []}, "an empty list"),
    "turns by name": ({"image": "a", "turns": TURN}, "list of at least one"),
    "a turn too short": ({"image": "a", "turns": [{"question": "q"}]}, '"question" and "answer"'),
    "a turn too long": ({"image": "a", "turns": [{**TURN, "who": "x"}]}, "nothing else"),
    "a list": (["text"], "where a JSON object is expected"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named(case: str) -> None:
    value, says = FAULTS[case]
    with pytest.raises(InputError, match=says):
        read(value)


@pytest.mark.parametrize(
    ("line", "says"),
    [(b"{", "not JSON"), (b'{"text": "\xff"}', "not UTF-8"), (b"[" * 10**5, "JSON")],
)
def test_what_is_no_json(line: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_line(line, FOLDER)
