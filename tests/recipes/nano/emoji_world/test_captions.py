"""Captions, questions and answers of scenes."""

from __future__ import annotations

from collections import Counter

import numpy as np

from recipes.nano.emoji_world import (
    OBJECTS,
    QUESTIONS,
    STYLES,
    Scene,
    answer,
    caption,
    dialogue,
    full_caption,
    question_answer,
    random_scene,
    with_article,
)
from recipes.nano.emoji_world.captions import CAPTIONS, KINDS

APPLE = Scene(OBJECTS.index("red-apple"), 0, "blue", "1:1", 48, 0, 0, mirror=False)


def test_full_caption() -> None:
    assert full_caption(APPLE) == "a red apple on a blue background, noto style"


def test_most_frequent_captions() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(caption(APPLE, rng) for _ in range(2000))
    assert len(counts) == len(CAPTIONS)
    assert [text for text, _ in counts.most_common(2)] == [
        "a red apple on a blue background, noto style",
        "a red apple, noto style",
    ]
    assert "noto style, a red apple on a blue background" in counts
    assert "a picture of a red apple in noto style" in counts
    assert "an icon of a red apple on blue, noto style" in counts


def test_captions_name_object_and_mostly_style() -> None:
    rng = np.random.default_rng(1)
    named = []
    for i in range(1200):
        scene = random_scene(rng, i % 400, i % 3)
        text = caption(scene, rng)
        assert with_article(OBJECTS[scene.object]) in text
        named.append(STYLES[scene.style] in text)
    assert 0.92 < np.mean(named) < 0.98


def test_seed_reproduces_captions_and_questions() -> None:
    first, second = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(20):
        assert caption(APPLE, first) == caption(APPLE, second)
        assert question_answer(APPLE, first) == question_answer(APPLE, second)


def test_questions_have_one_meaning_and_their_answer() -> None:
    rng = np.random.default_rng(2)
    asked = [question_answer(APPLE, rng) for _ in range(4000)]
    answers = {kind: text for kind, _, text in asked}
    assert answers == {
        "object": "a red apple",
        "style": "noto",
        "background": "blue",
        "describe": "a red apple on a blue background, noto style",
    }
    kinds_of = {question: kind for kind, question, _ in asked}
    assert {(kind, question) for kind, question, _ in asked} == {
        (kind, question) for question, kind in kinds_of.items()
    }, "a wording must belong to one kind"
    assert kinds_of["What is this?"] == kinds_of["What is it?"] == "object"
    assert kinds_of["Please describe the image"] == "describe"
    assert kinds_of["Which style is it?"] == "style"
    assert kinds_of["What colour is the background?"] == "background"
    assert kinds_of["What color is the background?"] == "background"
    for kind, expected in KINDS.items():
        assert abs(np.mean([k == kind for k, _, _ in asked]) - expected) < 0.03


def test_dialogue_has_different_questions_with_answers() -> None:
    rng = np.random.default_rng(3)
    true = {q: answer(APPLE, kind) for kind, wordings in QUESTIONS.items() for q in wordings}
    kind_of = {q: kind for kind, wordings in QUESTIONS.items() for q in wordings}
    lengths = Counter()
    for _ in range(600):
        turns = dialogue(APPLE, rng)
        assert all(text == true[question] for question, text in turns)
        assert len({kind_of[question] for question, _ in turns}) == len(turns)
        lengths[len(turns)] += 1
    assert set(lengths) == {1, 2, 3}


def test_weights_are_probabilities() -> None:
    assert abs(sum(CAPTIONS.values()) - 1) < 1e-9
    assert abs(sum(KINDS.values()) - 1) < 1e-9
