"""`emu3 chat` prints the answer of `Emu3.chat`."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from typer.testing import Result

from emu3.api import Emu3
from emu3.checkpoints.loading import Checkpoint
from emu3.cli.chat import AnswerStream

Emu3Command = Callable[..., Result]


def test_answer_equals_python_api(
    emu3: Emu3Command, tiny: Path, photo: Path, checkpoint: Checkpoint
) -> None:
    options = ("--model", tiny, "--device", "cpu", "--max-new-tokens", 12)
    m = Emu3(checkpoint)
    with Image.open(photo) as image:
        for images in ([], [image], [image, image]):
            done = emu3("chat", *[photo] * len(images), "what is this?", *options)
            assert done.exit_code == 0, done.output
            assert done.stderr == ""
            assert done.stdout == m.chat("what is this?", images, max_new_tokens=12) + "\n"


def test_sampling_depends_on_seed(emu3: Emu3Command, tiny: Path) -> None:
    options = ("--model", tiny, "--max-new-tokens", 12, "--top-k", 0)
    answers = [emu3("chat", "hi", *options, "--seed", seed).stdout for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_missing_question_raises(refused: Callable[..., str], tiny: Path, photo: Path) -> None:
    assert "the question comes last" in refused("chat", photo, "--model", tiny)


def test_question_exceeding_context_raises(refused: Callable[..., str], tiny: Path) -> None:
    assert "context of 512" in refused("chat", "why? " * 200, "--model", tiny)


def test_max_new_tokens_must_be_positive(refused: Callable[..., str], tiny: Path) -> None:
    assert "max_new_tokens" in refused("chat", "hi", "--model", tiny, "--max-new-tokens", 0)


def test_stream_writes_new_text() -> None:
    file = io.StringIO()
    stream = AnswerStream(file)
    written = []
    for text in ("", "a", "a caf\ufffd", "a café", "a café, au lait"):
        stream.update(text)
        written.append(file.getvalue())
    assert written == ["", "a", "a caf", "a café", "a café, au lait"]
    stream.finish("a café, au lait.")
    assert file.getvalue() == "a café, au lait.\n"


def test_stream_rewrites_changed_text() -> None:
    file = io.StringIO()
    stream = AnswerStream(file)
    stream.update("ab")
    stream.update("ax")
    stream.finish("axe")
    assert file.getvalue() == "ab\naxe\n"


def test_stream_ends_line_when_interrupted() -> None:
    file = io.StringIO()
    stream = AnswerStream(file)
    stream.end_line()
    stream.update("ab")
    stream.end_line()
    assert file.getvalue() == "ab\n"
