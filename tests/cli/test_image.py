"""`emu3 image`: files, stored settings, interruption, progress and preview."""

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
from emu3.cli.image import output_paths
from emu3.cli.preview import half_blocks, image_progress, preview_columns
from emu3.outputs import PNG_KEY, ImageOutput

Emu3Command = Callable[..., Result]


def settings_in(path: Path) -> dict[str, object]:
    with Image.open(path) as opened:
        settings: dict[str, object] = json.loads(opened.info[PNG_KEY])
    return settings


def test_stored_settings_reproduce_the_image(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    done = emu3("image", "a fox", "--model", tiny, "-o", "fox.png", "--ratio", "2:1", "--top-k", 9)
    assert done.exit_code == 0, done.output
    assert done.stdout == "fox.png\n"
    settings = settings_in(here / "fox.png")
    assert (settings["prompt"], settings["ratio"], settings["top_k"]) == ("a fox", "2:1", 9)
    assert f"seed {settings['seed']}:" in done.stderr
    assert "24x12 px" in done.stderr
    assert "codes/s" in done.stderr

    loaded = (str(settings.pop("model")), str(settings.pop("dtype")))
    again = Emu3.from_pretrained(loaded[0], device="cpu", dtype=loaded[1])
    out = again.image(settings.pop("prompt"), **settings)  # type: ignore[arg-type]
    with Image.open(here / "fox.png") as opened:
        assert opened.convert("RGB").tobytes() == out.images[0].tobytes()


def test_seed_is_random_by_default(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    for name in ("a.png", "b.png"):
        assert emu3("image", "a", "--model", tiny, "-o", name).exit_code == 0
    assert settings_in(here / "a.png")["seed"] != settings_in(here / "b.png")["seed"]
    assert emu3("image", "a", "--model", tiny, "-o", "c.png", "--seed", 5).exit_code == 0
    assert settings_in(here / "c.png")["seed"] == 5


def test_several_images_are_numbered(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    options = ("--model", tiny, "-o", "zoo.png", "-n", 2, "--seed", 3, "--quiet")
    done = emu3("image", "a fox", "an owl", *options)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert done.stdout.split() == [f"zoo-{number}.png" for number in (1, 2, 3, 4)]
    settings = [settings_in(here / name) for name in done.stdout.split()]
    assert [each["prompt"] for each in settings] == ["a fox", "a fox", "an owl", "an owl"]
    assert [each["seed"] for each in settings] == [3, 4, 5, 6]
    assert not (here / "zoo.png").exists()


def test_other_formats(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    for name in ("fox.jpg", "fox.webp"):
        assert emu3("image", "a fox", "--model", tiny, "-o", name).exit_code == 0
        with Image.open(here / name) as opened:
            assert opened.size == (16, 16)


def test_output_paths() -> None:
    assert output_paths(Path("to/a.b.png"), 1) == [Path("to/a.b.png")]
    assert output_paths(Path("to/a.b.png"), 2) == [Path("to/a.b-1.png"), Path("to/a.b-2.png")]


def test_interrupted_generation_leaves_no_file(
    emu3: Emu3Command, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Emu3, "image", stop)
    done = emu3("image", "a fox", "--model", tiny, "-o", "fox.png")
    assert done.exit_code == 130
    assert done.stderr == "interrupted; nothing written\n"
    assert list(here.iterdir()) == []


def test_batches_do_not_change_images(
    emu3: Emu3Command, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("image", "a fox", "an owl", "-n", 2, "--model", tiny, "--seed", 3)
    assert emu3(*command, "-o", "whole.png").exit_code == 0
    monkeypatch.setattr(image, "BATCH_SIZE", 3)
    assert emu3(*command, "-o", "batched.png").exit_code == 0
    for number in (1, 2, 3, 4):
        whole, batched = here / f"whole-{number}.png", here / f"batched-{number}.png"
        assert whole.read_bytes() == batched.read_bytes()


def test_interrupted_run_keeps_finished_batches(
    emu3: Emu3Command, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Emu3.image, list[object]()

    def stop(m: Emu3, prompts: list[str], **how: object) -> ImageOutput:
        calls.append(prompts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(m, prompts, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Emu3, "image", stop)
    monkeypatch.setattr(image, "BATCH_SIZE", 2)
    done = emu3("image", "a fox", "-n", 5, "--model", tiny, "-o", "fox.png")
    assert done.exit_code == 130
    assert done.stderr == "interrupted; 2 of 5 images written\n"
    assert done.stdout.split() == ["fox-1.png", "fox-2.png"]
    assert {each.name for each in here.iterdir()} == {"fox-1.png", "fox-2.png"}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_message(
    error: Exception,
    refused: Callable[..., str],
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Emu3, "image", stop)
    assert "not enough memory" in refused("image", "a", "--model", tiny, "-o", "a.png")


def test_bugs_show_their_traceback(
    emu3: Emu3Command, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Emu3, "image", stop)
    done = emu3("image", "a fox", "--model", tiny, "-o", "fox.png")
    assert isinstance(done.exception, ValueError)


def test_preview_shows_growing_image(checkpoint: Checkpoint) -> None:
    m = Emu3(checkpoint)
    console = Console(force_terminal=True, width=60, height=20, color_system="truecolor")
    with console.capture() as captured, image_progress(console, 1, m.decode) as on_row:
        m.image("a fox", on_row=on_row)
    output = captured.get()
    assert "4/4" in output
    assert "codes/s" in output
    assert "▀" in output


def test_progress_spans_batches(checkpoint: Checkpoint) -> None:
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
    red = Image.new("RGB", (8, 6), (255, 0, 0))
    text = half_blocks(red, 4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀\n"  # three rows of pixels; the last has no lower half
    assert [span.style.bgcolor is None for span in text.spans] == [False] * 4 + [True] * 4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("screen", "columns"), [((80, 24), 42), ((20, 24), 20), ((200, 100), 64), ((1, 1), 1)]
)
def test_preview_fits_the_screen(screen: tuple[int, int], columns: int) -> None:
    assert preview_columns(8, 8, *screen) == columns
