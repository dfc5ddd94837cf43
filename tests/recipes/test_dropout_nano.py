"""The ablation without dropout: what is measured, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path

from recipes.dropout_nano import LOG, MEASURED, MIX, told, unlearnt
from recipes.nano.emoji_world import OBJECTS, STYLES, Icons, held_out_pairs, with_article
from recipes.nano_decoder import Lessons
from tests.recipes.test_nano_decoder import TEXT, VARIATIONS, Flat, said


def test_a_pair_is_drawn_and_named(icons: Icons) -> None:
    lessons = Lessons(MIX, Flat(), TEXT, icons, VARIATIONS)
    documents = unlearnt(lessons, held_out_pairs(), 5)
    assert len(documents) == 10
    pairs = {(with_article(OBJECTS[thing]), STYLES[style]) for thing, style in held_out_pairs()}
    for drawn, named in zip(documents[::2], documents[1::2], strict=True):
        assert "USER:" in said(named)
        assert any(
            f"{thing} on a white background, {style} style" in said(drawn) and thing in said(named)
            for thing, style in pairs
        )


def test_of_a_step_done_twice_the_later_line_counts(tmp_path: Path) -> None:
    lines = [{"step": step, "grad": grad} for step, grad in ((1, 2.0), (2, 9.0), (2, 3.0))]
    measured = [{"step": step, "seen": seen} for step, seen in ((2, 0.5), (1, 0.7), (2, 0.4))]
    for name, rows in ((LOG, lines), (MEASURED, measured)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert told(tmp_path) == {
        "greatest_gradient": 3.0,
        "measured": [{"step": 1, "seen": 0.7}, {"step": 2, "seen": 0.4}],
    }
