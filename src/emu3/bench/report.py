"""Results as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from emu3.bench.benchmark import METHODS, Result
from emu3.bench.models import MODELS

GB = 1e9


def print_results(results: Sequence[Result], console: Console | None = None) -> None:
    """Print one row per case.

    *Speedup* is relative to the original recipe if it was measured, else to the first method.
    *BW* is the part of the machine's memory bandwidth that a pass uses at least. For an
    image that hit the time limit, *passes* has its passes and codes so far, and *time* is
    extrapolated.
    """
    # Text in brackets, such as the name of an extra, is no markup.
    console = Console(markup=False) if console is None else console
    size = MODELS[results[0].case.size]
    grid = f"{size.grid[0]}x{size.grid[1]} codes"
    # Narrow enough for 80 columns.
    title = f"{size.name}: {size.description}; one guided image of {grid}"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for name in ("dtype", "codes/s", "speedup", "passes", "time", "memory", "BW"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        if not result.error:
            table.add_row(*_row(result, results))
    console.print(table)
    for result in results:
        if result.error:
            title = METHODS[result.case.method].title
            line = f"{title}, {result.case.precision}: failed: {result.error}"
            console.print(line, soft_wrap=True, markup=False)


def _row(result: Result, results: Sequence[Result]) -> list[str]:
    rate = result.codes_per_second
    seconds = result.image_codes / rate if rate else float("inf")
    finished = result.codes >= result.image_codes
    passes = f"{result.passes}" if finished else f"{result.passes}/{result.codes}"
    return [
        METHODS[result.case.method].title,
        result.case.precision,
        f"{rate:.1f}",
        f"{rate / baseline_of(result, results).codes_per_second:.1f}x",
        passes,
        f"{'' if finished else '~'}{seconds:.{2 if seconds < 10 else 0}f} s",
        f"{result.peak_bytes / GB:.2f} GB",
        f"{result.bandwidth_fraction:.0%}",
    ]


def baseline_of(result: Result, results: Sequence[Result]) -> Result:
    """The result that a speedup refers to: the first method, if possible one of transformers.

    Quantized decoders are compared with transformers in the last precision that it runs.
    """
    finished = [each for each in results if not each.error]
    same = [each for each in finished if each.case.precision == result.case.precision]
    baselines = [each for each in finished if not METHODS[each.case.method].quantized]
    if any(not METHODS[each.case.method].quantized for each in same) or not baselines:
        return same[0]
    return baselines[-1]
