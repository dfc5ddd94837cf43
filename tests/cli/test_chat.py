"""`emu3 chat`: the answer of the pipeline, on stdout."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from typer.testing import Result

from emu3.api import Emu3
from emu3.checkpoints.loading import Checkpoint
from emu3.cli.chat import Stream

Emu3Command = Callable[..., Result]


def test_the_answer_is_the_pipelines(
    emu3: Emu3Command, tiny: Path, photo: Path, checkpoint: Checkpoint
) -> None:
    options = ("--model", tiny, "--device", "cpu", "--max-new-tokens", 12)
    m = Emu3(checkpoint)
    with Image.open(photo) as picture:
        for pictures in ([], [picture], [picture, picture]):
            done = emu3("chat", *[photo] * len(pictures), "what is this?", *options)
            assert done.exit_code == 0, done.output
            assert done.stderr == ""
            assert done.stdout == m.chat("what is this?", pictures, max_new_tokens=12) + "\n"


def test_sampling_follows_the_seed(emu3: Emu3Command, tiny: Path) -> None:
    options = ("--model", tiny, "--max-new-tokens", 12, "--top-k", 0)
    said = [emu3("chat", "hi", *options, "--seed", seed).stdout for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_a_forgotten_question(refused: Callable[..., str], tiny: Path, photo: Path) -> None:
    assert "the question comes last" in refused("chat", photo, "--model", tiny)


def test_a_question_too_long(refused: Callable[..., str], tiny: Path) -> None:
    assert "context of 512" in refused("chat", "why? " * 200, "--model", tiny)


def test_no_tokens(refused: Callable[..., str], tiny: Path) -> None:
    assert "max_new_tokens" in refused("chat", "hi", "--model", tiny, "--max-new-tokens", 0)


def test_an_answer_is_written_as_it_grows() -> None:
    file = io.StringIO()
    stream = Stream(file)
    seen = []
    for text in ("", "a", "a caf\ufffd", "a café", "a café, au lait"):
        stream.grow(text)
        seen.append(file.getvalue())
    assert seen == ["", "a", "a caf", "a café", "a café, au lait"]
    stream.finish("a café, au lait.")
    assert file.getvalue() == "a café, au lait.\n"


def test_an_answer_that_changed_is_written_again() -> None:
    file = io.StringIO()
    stream = Stream(file)
    stream.grow("ab")
    stream.grow("ax")
    stream.finish("axe")
    assert file.getvalue() == "ab\naxe\n"


def test_an_answer_broken_off_ends_its_line() -> None:
    file = io.StringIO()
    stream = Stream(file)
    stream.break_off()
    stream.grow("ab")
    stream.break_off()
    assert file.getvalue() == "ab\n"
