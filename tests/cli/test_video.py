"""`emu3 video`, `emu3 extend`, and `emu3 chat` about a video."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import Result

from emu3.api import Emu3
from emu3.checkpoints.generation_defaults import DEFAULTS_FILE
from emu3.checkpoints.loading import Checkpoint
from emu3.cli.preview import video_progress
from emu3.processing.video import open_clip, read_settings, video_writer

pytest.importorskip("av")

Emu3Command = Callable[..., Result]
NOTE = "was not trained on videos"


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    with video_writer(path, 8) as add:
        for frame in frames:
            add(frame)
    return path


def shapes(path: Path) -> tuple[int, tuple[int, ...]]:
    frames = list(open_clip(path, 8).frames)
    return len(frames), frames[0].shape


def test_stored_settings_reproduce_the_video(emu3: Emu3Command, tiny: Path, here: Path) -> None:
    options = ("--seconds", 1.25, "--fps", 8, "--top-k", 9)
    done = emu3("video", "a fox", "--model", tiny, "-o", "fox.mp4", *options)
    assert done.exit_code == 0, done.output
    assert done.stdout == "fox.mp4\n"
    assert NOTE in done.stderr
    assert "16x16 px, 10 frames, 8 fps, seed" in done.stderr
    assert "48 codes" in done.stderr
    assert shapes(here / "fox.mp4") == (10, (16, 16, 3))
    settings = read_settings(here / "fox.mp4")
    assert settings is not None
    assert (settings["prompt"], settings["seconds"], settings["top_k"], settings["given"]) == (
        "a fox",
        1.25,
        9,
        0,
    )
    again = emu3(
        "video", "a fox", "--model", tiny, "-o", "b.mp4", *options, "--seed", settings["seed"], "-q"
    )
    assert again.stderr == ""
    first, second = (list(open_clip(here / name).frames) for name in ("fox.mp4", "b.mp4"))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.webm"])
def test_other_formats_and_first_image(
    name: str, emu3: Emu3Command, tiny: Path, here: Path, photo: Path
) -> None:
    done = emu3("video", "a", "--model", tiny, "-o", name, "--image", photo, "--seconds", 1)
    assert done.exit_code == 0, done.output
    assert shapes(here / name) == (8, (16, 24, 3))
    assert "24 codes" in done.stderr  # without those of the first image


def test_extend_appends_frames(emu3: Emu3Command, tiny: Path, here: Path, clip: Path) -> None:
    options = ("--model", tiny, "--seconds", 1, "--seed", 3, "-q")
    done = emu3("extend", clip, "-o", "longer.mp4", *options)
    assert done.exit_code == 0, done.output
    assert (done.stdout, done.stderr) == ("longer.mp4\n", "")
    assert shapes(here / "longer.mp4") == (16, (16, 16, 3))
    settings = read_settings(here / "longer.mp4")
    assert settings is not None
    assert (settings["seed"], settings["given"]) == (3, 2)


def test_chat_about_video(
    emu3: Emu3Command, tiny: Path, clip: Path, photo: Path, checkpoint: Checkpoint
) -> None:
    options = ("--model", tiny, "--device", "cpu", "--max-new-tokens", 12)
    done = emu3("chat", clip, "which way?", *options, "--fps", 4)
    assert done.exit_code == 0, done.output
    m = Emu3(checkpoint)
    assert (
        done.stdout == m.chat("which way?", videos=[open_clip(clip, 4)], max_new_tokens=12) + "\n"
    )
    both = emu3("chat", clip, photo, "which way?", *options)
    assert both.exit_code == 0, both.output


BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "not a video": (("-o", "a.png"), "must end in .mp4"),
    "no folder": (("-o", "gone/a.mp4"), "no such folder"),
    "no seconds": (("-o", "a.mp4", "--seconds", 0), "seconds = 0"),
    "no fps": (("-o", "a.mp4", "--fps", 0), "frames per second"),
    "fps with too many decimals": (("-o", "a.mp4", "--fps", 29.97002), "three decimals"),
    "temperature": (("-o", "a.mp4", "--temperature", 0), "temperature"),
}


@pytest.mark.parametrize("command", ["video", "extend"])
@pytest.mark.parametrize("case", BAD)
def test_arguments_are_checked_before_loading(
    case: str, command: str, clip: Path, refused: Callable[..., str]
) -> None:
    options, message = BAD[case]
    argument = "a fox" if command == "video" else clip
    assert message in refused(command, argument, "--model", "nothing", *options)


def test_invalid_input_leaves_no_file(tiny: Path, refused: Callable[..., str]) -> None:
    options = ("--model", tiny, "-o", "a.mp4", "--quiet")
    assert "exceed the context of 512" in refused("video", "a", *options, "--seconds", 60)
    assert "no such file" in refused("extend", "gone.mp4", *options)
    assert "no such file" in refused("video", "a", *options, "--image", "gone.png")


def test_interrupted_video_leaves_no_file(
    emu3: Emu3Command, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are written as they are generated; an incomplete file is deleted."""
    original, groups = Emu3.video, []

    def stop(self: Emu3, *rest: object, on_group: Callable[..., None], **named: object) -> object:
        def interrupt(progress: object) -> None:
            on_group(progress)
            groups.append(progress)
            raise KeyboardInterrupt

        return original(self, *rest, on_group=interrupt, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Emu3, "video", stop)
    done = emu3("video", "a", "--model", tiny, "-o", "a.mp4", "-q")
    assert done.exit_code == 130
    assert len(groups) == 1
    assert list(here.iterdir()) == []


def test_preview_shows_newest_frame(checkpoint: Checkpoint) -> None:
    console = Console(force_terminal=True, width=60, height=20, color_system="truecolor")
    with console.capture() as captured, video_progress(console, preview=True) as on_group:
        Emu3(checkpoint).video("a fox", seconds=1, on_group=on_group)
    output = captured.get()
    assert "2/2" in output
    assert "▀" in output


@pytest.fixture
def trained(tiny: Path, here: Path) -> Path:
    """A model whose generation defaults list videos among its tasks."""
    shutil.copytree(tiny, here / "trained")
    (here / "trained" / DEFAULTS_FILE).write_text(json.dumps({"tasks": ["image", "chat", "video"]}))
    return here / "trained"


def test_extend_prints_the_caption(
    emu3: Emu3Command, trained: Path, here: Path, clip: Path
) -> None:
    command = ("extend", clip, "--model", trained, "--seconds", 0.5, "--seed", 3)
    done = emu3(*command, "-o", "longer.mp4")
    assert done.exit_code == 0, done.output
    settings = read_settings(here / "longer.mp4")
    assert settings is not None
    assert settings["prompt"]
    assert f"caption: {settings['prompt']}" in done.stderr
    for prompt in ("", "rain"):
        done = emu3(*command, "-o", "prompted.mp4", "--prompt", prompt)
        assert "caption:" not in done.stderr
        settings = read_settings(here / "prompted.mp4")
        assert settings is not None
        assert settings["prompt"] == prompt


def test_no_note_for_models_trained_on_videos(emu3: Emu3Command, trained: Path) -> None:
    options = ("--seconds", 0.5, "-o", "fox.gif")
    done = emu3("video", "a fox", "--model", trained, *options)
    assert done.exit_code == 0, done.output
    assert NOTE not in done.stderr
