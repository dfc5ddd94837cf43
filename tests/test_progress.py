"""Bars appear on a terminal, for slow work, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from emu3 import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, patience: float) -> Terminal:
    """A screen in the place of stderr. Called in tests: pytest resets stderr after fixtures."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE", patience)
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    return screen


def work(title: str = "working", *, quiet: bool = False) -> None:
    with progress.count_progress(title, 3, quiet=quiet) as advance:
        for _ in range(3):
            advance(1)
    with progress.transfer_progress(title, quiet=quiet) as report:
        report(500_000, 1_000_000)
        report(1_000_000, 1_000_000)


def test_quick_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, patience=60)
    work()
    assert screen.getvalue() == ""


def test_slow_work_shows_rate_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, patience=-1)
    work("reading [bold]x")
    shown = screen.getvalue()
    assert "3/3" in shown
    assert "1.0 MB" in shown
    assert "[bold]x" in shown  # a file's name is no markup


def test_a_pipe_stays_clean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    work()
    assert capsys.readouterr() == ("", "")


def test_a_failure_takes_the_bar_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, patience=-1)

    def fail() -> None:
        with progress.count_progress("working", 2) as advance:
            advance(1)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert screen.getvalue().endswith("\x1b[2K")  # the line is cleared
