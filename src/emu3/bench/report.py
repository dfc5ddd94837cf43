"""Measurements as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from emu3.bench.cases import CASES, Result
from emu3.bench.sizes import SIZES

GB = 1e9


def print_results(results: Sequence[Result], console: Console | None = None) -> None:
    """One line a case. *Times* is against the original recipe where it is there, else the first.

    *Reading* is the share of the machine's bandwidth. A picture that was broken off has its passes
    and codes so far, and a time worked out from them.
    """
    console = Console() if console is None else console
    size = SIZES[results[0].case.size]
    grid = f"{size.grid[0]}x{size.grid[1]} codes"
    # Slim enough for 80 columns.
    title = f"{size.name}: {size.about}; one guided picture of {grid}"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("how", no_wrap=True)
    for name in ("dtype", "codes/s", "times", "passes", "time", "memory", "reading"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        if not result.failed:
            table.add_row(*row(result, results))
    console.print(table)
    for result in results:
        if result.failed:
            about, held = CASES[result.case.way].about, result.case.precision
            console.print(f"{about}, {held}: failed: {result.failed}", soft_wrap=True)


def row(result: Result, results: Sequence[Result]) -> list[str]:
    """The cells of a line."""
    about = CASES[result.case.way].about
    seconds = result.of / result.rate if result.rate else float("inf")
    whole = result.codes >= result.of
    passes = f"{result.passes}" if whole else f"{result.passes}/{result.codes}"
    return [
        about,
        result.case.precision,
        f"{result.rate:.1f}",
        f"{result.rate / first_of(result, results).rate:.1f}x",
        passes,
        f"{'' if whole else '~'}{seconds:.{2 if seconds < 10 else 0}f} s",
        f"{result.peak / GB:.2f} GB",
        f"{result.share:.0%}",
    ]


def first_of(result: Result, results: Sequence[Result]) -> Result:
    """What a result is held against: the first way in its precision, else in the one above."""
    same = [r for r in results if not r.failed and r.case.precision == result.case.precision]
    dense = [r for r in results if not r.failed and CASES[r.case.way].dense]
    if any(CASES[r.case.way].dense for r in same) or not dense:
        return same[0]
    return dense[-1]
