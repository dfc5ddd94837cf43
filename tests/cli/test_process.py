"""The command as a separate process: start-up, imports and Ctrl-C."""

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


def test_help_does_not_import_pytorch() -> None:
    code = "from emu3.cli.app import build; build()(['image', '--help'], standalone_mode=False)"
    done = run("-c", f"import sys; {code}; sys.exit('torch' in sys.modules)")
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


@pytest.mark.slow
def test_package_imports_lazily() -> None:
    done = run("-c", "import sys, emu3; assert 'torch' not in sys.modules; print(emu3.Emu3)")
    assert done.stdout == "<class 'emu3.api.Emu3'>\n", done.stderr
    assert set(emu3.__all__) <= set(dir(emu3))
    for name in emu3.__all__:
        assert getattr(emu3, name)
    with pytest.raises(AttributeError, match="nothing"):
        emu3.nothing  # noqa: B018


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_ctrl_c_leaves_no_file(checkpoint: Checkpoint, tmp_path: Path, here: Path) -> None:
    slow = replace(checkpoint, decoder=tiny_decoder(max_position_embeddings=20_000))
    slow.save(tmp_path / "slow")
    arguments = ["image", "a fox", "-o", "fox.png", "--model", str(tmp_path / "slow")]
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "emu3", *arguments, "--area", "160000", "--device", "cpu"],
        env={**ENVIRONMENT, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=child,
        preexec_fn=restore_sigint,
    )
    os.close(child)
    output = read_until(parent, "▀")  # the preview has appeared
    process.send_signal(signal.SIGINT)
    output += read_until(parent, None)
    os.close(parent)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert stdout == b""
    assert output.rstrip().endswith("interrupted; nothing written")
    assert "codes/s" in output
    assert "Traceback" not in output
    assert list(here.iterdir()) == []


def restore_sigint() -> None:
    """Background jobs of a shell ignore SIGINT, and their children inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def read_until(terminal: int, text: str | None) -> str:
    """Output of a terminal up to a text, or to its end."""
    output = b""
    while text is None or text.encode() not in output:
        try:
            output += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    return output.decode(errors="replace")
