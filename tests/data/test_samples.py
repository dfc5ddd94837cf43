"""Parsing of JSONL samples."""

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


def test_valid_samples() -> None:
    image = ImageFile(FOLDER / "a.png")
    assert read({"text": "words"}) == Sample(text="words")
    assert read({"image": "a.png", "text": "words"}) == Sample(text="words", image=image)
    with_turns = read({"image": "a.png", "turns": [TURN, TURN]})
    assert with_turns == Sample(image=image, turns=(("q", "a"), ("q", "a")))
    video = VideoFile(FOLDER / "a.mp4")
    assert read({"video": "a.mp4", "text": "words"}) == Sample(text="words", video=video)
    assert read({"video": "a.mp4", "turns": [TURN]}) == Sample(video=video, turns=(("q", "a"),))


INVALID: dict[str, tuple[object, str]] = {
    "nothing": ({}, 'neither "text" nor "turns"'),
    "an image alone": ({"image": "a.png"}, 'neither "text" nor "turns"'),
    "both": ({"image": "a.png", "text": "t", "turns": [TURN]}, "are given"),
    "turns alone": ({"turns": [TURN]}, 'without an "image"'),
    "another key": ({"text": "t", "label": 3}, "unknown key 'label'"),
    "an image and a video": ({"image": "a.png", "video": "a.mp4", "text": "t"}, "are given"),
    "a video alone": ({"video": "a.mp4"}, 'neither "text" nor "turns"'),
    "a number": ({"text": 3}, "expected a string, found a number"),
    "null": ({"text": None}, "expected a string, found null"),
    "a list of paths": (
        {"image": ["a.png"], "text": "t"},
        '"image": expected a string, found a list or an object',
    ),
    "blank": ({"text": " \n"}, "blank"),
    "a blank answer": ({"image": "a", "turns": [{**TURN, "answer": ""}]}, '"answer" is blank'),
    "half a pair": ({"text": "\ud800"}, "surrogate"),
    "no turns": ({"image": "a", "turns": []}, "an empty list"),
    "turns by name": ({"image": "a", "turns": TURN}, "list of at least one"),
    "a turn too short": ({"image": "a", "turns": [{"question": "q"}]}, '"question" and "answer"'),
    "a turn too long": ({"image": "a", "turns": [{**TURN, "who": "x"}]}, "exactly the keys"),
    "a list": (["text"], "expected a JSON object"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_samples_raise(case: str) -> None:
    value, message = INVALID[case]
    with pytest.raises(InputError, match=message):
        read(value)


@pytest.mark.parametrize(
    ("line", "message"),
    [(b"{", "not JSON"), (b'{"text": "\xff"}', "not UTF-8"), (b"[" * 10**5, "JSON")],
)
def test_invalid_json_raises(line: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_line(line, FOLDER)
