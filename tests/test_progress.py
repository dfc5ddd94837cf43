"""Progress bars appear on a terminal, for slow work only."""

from __future__ import annotations

import io
import sys

import pytest

from emu3 import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, delay: float) -> Terminal:
    """Replace stderr by a fake terminal. Not a fixture: pytest resets stderr after fixtures."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "SHOW_AFTER", delay)
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
    screen = terminal(monkeypatch, delay=60)
    work()
    assert screen.getvalue() == ""


def test_slow_work_shows_rate_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, delay=-1)
    work("reading [bold]x")
    shown = screen.getvalue()
    assert "3/3" in shown
    assert "1.0 MB" in shown
    assert "[bold]x" in shown  # titles are not interpreted as markup


def test_nothing_is_written_to_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SHOW_AFTER", -1.0)
    work()
    assert capsys.readouterr() == ("", "")


def test_bar_is_removed_on_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, delay=-1)

    def fail() -> None:
        with progress.count_progress("working", 2) as advance:
            advance(1)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert screen.getvalue().endswith("\x1b[2K")  # the line is cleared
