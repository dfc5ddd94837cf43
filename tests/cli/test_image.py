"""`emu3 image`: files that remember how they were drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import Result

from emu3.api import Emu3
from emu3.checkpoints.loading import Checkpoint
from emu3.cli import image
from emu3.cli.image import names
from emu3.cli.preview import half_blocks, image_progress, preview_columns
from emu3.outputs import PNG_KEY, ImageOutput

Emu3Command = Callable[..., Result]


def settings_in(path: Path) -> dict[str, object]:
    with Image.open(path) as picture:
        said: dict[str, object] = json.loads(picture.info[PNG_KEY])
    return said


def test_a_picture_redraws_itself_from_what_its_file_remembers(
    emu3: Emu3Command, tiny: Path, here: Path
) -> None:
    done = emu3("image", "a fox", "--model", tiny, "-o", "fox.png", "--ratio", "2:1", "--top-k", 9)
    assert done.exit_code == 0, done.output
    assert done.stdout == "fox.png\n"
    said = settings_in(here / "fox.png")
    assert (said["prompt"], said["ratio"], said["top_k"]) == ("a fox", "2:1", 9)
    assert f"seed {said['seed']}:" in done.stderr
    assert "24x12 px" in done.stderr
    assert "codes/s" in done.stderr

    opened = (str(said.pop("model")), str(said.pop("dtype")))
    again = Emu3.from_pretrained(opened[0], device="cpu", dtype=opened[1])
    out = again.image(said.pop("prompt"), **said)  # type: ignore[arg-type]
    with Image.open(here / "fox.png") as picture:
        assert picture.convert("RGB").tobytes() == out.images[0].tobytes()


def test_seeds_are_by_chance_unless_given(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    for name in ("a.png", "b.png"):
        assert emu3("image", "a", "--model", tiny, "-o", name).exit_code == 0
    assert settings_in(here / "a.png")["seed"] != settings_in(here / "b.png")["seed"]
    assert emu3("image", "a", "--model", tiny, "-o", "c.png", "--seed", 5).exit_code == 0
    assert settings_in(here / "c.png")["seed"] == 5


def test_several_pictures_are_numbered(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    options = ("--model", tiny, "-o", "zoo.png", "-n", 2, "--seed", 3, "--quiet")
    done = emu3("image", "a fox", "an owl", *options)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert done.stdout.split() == [f"zoo-{number}.png" for number in (1, 2, 3, 4)]
    said = [settings_in(here / name) for name in done.stdout.split()]
    assert [each["prompt"] for each in said] == ["a fox", "a fox", "an owl", "an owl"]
    assert [each["seed"] for each in said] == [3, 4, 5, 6]
    assert not (here / "zoo.png").exists()


def test_other_kinds_of_files(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    for name in ("fox.jpg", "fox.webp"):
        assert emu3("image", "a fox", "--model", tiny, "-o", name).exit_code == 0
        with Image.open(here / name) as picture:
            assert picture.size == (16, 16)


def test_names() -> None:
    assert names(Path("to/a.b.png"), 1) == [Path("to/a.b.png")]
    assert names(Path("to/a.b.png"), 2) == [Path("to/a.b-1.png"), Path("to/a.b-2.png")]


def test_interrupted_while_drawing(
    emu3: Emu3Command, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Emu3, "image", stop)
    done = emu3("image", "a fox", "--model", tiny, "-o", "fox.png")
    assert done.exit_code == 130
    assert done.stderr == "interrupted; nothing written\n"
    assert list(here.iterdir()) == []


def test_some_at_a_time_are_those_drawn_at_once(
    emu3: Emu3Command, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("image", "a fox", "an owl", "-n", 2, "--model", tiny, "--seed", 3)
    assert emu3(*command, "-o", "at.png").exit_code == 0
    monkeypatch.setattr(image, "AT_ONCE", 3)
    assert emu3(*command, "-o", "some.png").exit_code == 0
    for number in (1, 2, 3, 4):
        once, some = here / f"at-{number}.png", here / f"some-{number}.png"
        assert once.read_bytes() == some.read_bytes()


def test_interrupted_later_what_is_drawn_is_there(
    emu3: Emu3Command, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, calls = Emu3.image, list[object]()

    def stop(m: Emu3, prompts: list[str], **how: object) -> ImageOutput:
        calls.append(prompts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(m, prompts, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Emu3, "image", stop)
    monkeypatch.setattr(image, "AT_ONCE", 2)
    done = emu3("image", "a fox", "-n", 5, "--model", tiny, "-o", "fox.png")
    assert done.exit_code == 130
    assert done.stderr == "interrupted; 2 of 5 pictures written\n"
    assert done.stdout.split() == ["fox-1.png", "fox-2.png"]
    assert {each.name for each in here.iterdir()} == {"fox-1.png", "fox-2.png"}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_no_memory(
    error: Exception,
    refused: Callable[..., str],
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Emu3, "image", stop)
    assert "not enough memory" in refused("image", "a", "--model", tiny, "-o", "a.png")


def test_a_bug_is_not_swallowed(
    emu3: Emu3Command, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Emu3, "image", stop)
    done = emu3("image", "a fox", "--model", tiny, "-o", "fox.png")
    assert isinstance(done.exception, ValueError)


def test_the_picture_grows_under_the_bar(checkpoint: Checkpoint) -> None:
    m = Emu3(checkpoint)
    console = Console(force_terminal=True, width=60, height=20, color_system="truecolor")
    with console.capture() as captured, image_progress(console, 1, m.decode) as on_row:
        m.image("a fox", on_row=on_row)
    shown = captured.get()
    assert "4/4" in shown
    assert "codes/s" in shown
    assert "▀" in shown


def test_the_bar_goes_on_over_parts(checkpoint: Checkpoint) -> None:
    m = Emu3(checkpoint)
    console = Console(force_terminal=True, width=60, height=20)
    with console.capture() as captured, image_progress(console, 3, None) as on_row:
        for prompts in (["a fox", "an owl"], ["a bat"]):
            m.image(prompts, on_row=on_row)
    assert "12/12" in captured.get()


def test_no_bar_without_a_terminal() -> None:
    with image_progress(None, 1, None) as on_row:
        assert on_row is None


def test_half_blocks() -> None:
    picture = Image.new("RGB", (8, 6), (255, 0, 0))
    text = half_blocks(picture, 4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀\n"  # three lines of pixels; the last stands alone
    assert [span.style.bgcolor is None for span in text.spans] == [False] * 4 + [True] * 4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("screen", "columns"), [((80, 24), 42), ((20, 24), 20), ((200, 100), 64), ((1, 1), 1)]
)
def test_previews_fit_the_screen(screen: tuple[int, int], columns: int) -> None:
    assert preview_columns(8, 8, *screen) == columns
