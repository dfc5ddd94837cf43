"""`emu3 bench`: how fast, beside others, on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from emu3.errors import InputError
from emu3.files import atomic_write, check_writable
from emu3.progress import count_progress

EPILOG = """
[bold]Examples[/bold]

emu3 bench nano                              [dim]all ways of drawing, in float32[/dim]

emu3 bench 0.3b --dtype bf16 --dtype int4    [dim]several precisions[/dim]

emu3 bench 8b --dtype int4 --way windows --seconds 30

Needs the extra hf for the lines of transformers: pip install "emu3\\[hf]"
"""


def bench(
    size: Annotated[str, typer.Argument(help="nano, 0.3b or 8b.")] = "nano",
    dtype: Annotated[
        list[str] | None, typer.Option(help="fp32, bf16, int8 or int4; may be given again.")
    ] = None,
    way: Annotated[
        list[str] | None,
        typer.Option(
            help="original, batched, slow, sequential or windows; may be given again.",
            show_default="all",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="For each, at most.")] = 60.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the figures there, as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Measure drawing: ours and transformers', same weights, one run, one machine."""
    if output is not None:
        check_writable(output)
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds {seconds} must be above 0")
    import torch

    from emu3.bench import CASES, Case, print_results, run_all
    from emu3.bench.machine import about
    from emu3.bench.sizes import size_named
    from emu3.checkpoints.loading import DeviceConfig
    from emu3.models.precision import parse_precision

    size_named(size)
    place = DeviceConfig.resolve(device, None).device
    held = [parse_precision(name) for name in dtype or ["fp32"]]
    if unknown := set(way or CASES) - set(CASES):
        raise InputError(f"no such way: {', '.join(sorted(unknown))}; of {', '.join(CASES)}")
    cases = [
        Case(size, name, to.name, str(place), seconds)
        for to in held
        for name, each in CASES.items()
        if name in (way or CASES) and (to.bits is None or not each.dense)
    ]
    if not cases:
        raise InputError("nothing to measure: transformers knows fp32 and bf16 only")
    with count_progress("measuring", len(cases)) as advance:
        results = []
        for result in run_all(cases):
            results.append(result)
            advance(1)
    machine = about(torch.device(place))
    said = {"machine": machine, "results": [{**asdict(r), "share": r.share} for r in results]}
    if output is not None:
        with atomic_write(output) as temporary:
            temporary.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(said))
        return
    print_results(results)
    typer.echo(", ".join(f"{value}" for value in machine.values()))
