"""The command as a process of its own: how it starts, and how it stops."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import emu3
from emu3.checkpoints.loading import Checkpoint
from emu3.testing import tiny_decoder

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
COMMANDS = [
    "image",
    "video",
    "extend",
    "chat",
    "encode",
    "decode",
    "info",
    "prepare",
    "train",
    "serve",
    "eval nano",
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_version() -> None:
    done = run("-m", "emu3", "--version")
    assert (done.returncode, done.stdout) == (0, f"emu3 {emu3.__version__}\n")


def test_help_does_not_wait_for_pytorch() -> None:
    asks = "from emu3.cli.app import build; build()(['image', '--help'], standalone_mode=False)"
    done = run("-c", f"import sys; {asks}; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr
    assert "Examples" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples(command: str) -> None:
    from typer.testing import CliRunner

    from emu3.cli.app import build

    done = CliRunner().invoke(build(), [*command.split(), "--help"])
    assert done.exit_code == 0
    assert "Examples" in done.stdout
    assert f"emu3 {command}" in done.stdout


def test_the_front_door_is_lazy_but_whole() -> None:
    done = run("-c", "import sys, emu3; assert 'torch' not in sys.modules; print(emu3.Emu3)")
    assert done.stdout == "<class 'emu3.api.Emu3'>\n", done.stderr
    assert set(emu3.__all__) <= set(dir(emu3))
    for name in emu3.__all__:
        assert getattr(emu3, name)
    with pytest.raises(AttributeError, match="nothing"):
        emu3.nothing  # noqa: B018


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_ctrl_c_while_drawing_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, here: Path
) -> None:
    long = replace(checkpoint, decoder=tiny_decoder(max_position_embeddings=20_000))
    long.save(tmp_path / "long")
    arguments = ["image", "a fox", "-o", "fox.png", "--model", str(tmp_path / "long")]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "emu3", *arguments, "--area", "160000", "--device", "cpu"],
        env={**ENVIRONMENT, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        preexec_fn=heed_ctrl_c,
    )
    os.close(theirs)
    said = read_until(ours, "▀")  # the picture has begun to grow
    process.send_signal(signal.SIGINT)
    said += read_until(ours, None)
    os.close(ours)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert stdout == b""
    assert said.rstrip().endswith("interrupted; nothing written")
    assert "codes/s" in said
    assert "Traceback" not in said
    assert list(here.iterdir()) == []


def heed_ctrl_c() -> None:
    """A shell's background job ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def read_until(terminal: int, words: str | None) -> str:
    """What appears in a terminal, up to some words or its end."""
    said = b""
    while words is None or words.encode() not in said:
        try:
            said += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    return said.decode(errors="replace")
