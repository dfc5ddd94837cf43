"""`emu3 bench`: generation speed of this package and of transformers."""

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

emu3 bench nano                              [dim]all methods, in float32[/dim]

emu3 bench 0.3b --dtype bf16 --dtype int4    [dim]several precisions[/dim]

emu3 bench 8b --dtype int4 --way speculative --seconds 30

[bold]Methods[/bold]

original: the recipe of the published model on transformers. batched: transformers, both guidance
branches in one batch. reference (or slow): one token per pass. sequential: optimized, one code per
pass. speculative (or windows): optimized, speculative decoding.

original and batched need the extra hf: pip install "emu3\\[hf]"
"""


def bench(
    size: Annotated[
        str,
        typer.Argument(help="nano, or 0.3b or 8b with random weights."),
    ] = "nano",
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="fp32, bf16, int8 or int4; may be repeated.", show_default="fp32"),
    ] = None,
    way: Annotated[
        list[str] | None,
        typer.Option(
            help="A method: original, batched, reference, sequential or speculative; "
            "may be repeated.",
            show_default="all",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time limit of each method.")] = 60.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the results there, as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure how fast one guided image is generated, with the same weights for all methods."""
    if output is not None:
        check_writable(output)
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds {seconds} must be above 0")
    import torch

    from emu3.bench import METHODS, Case, print_results, run_all
    from emu3.bench.benchmark import find_method
    from emu3.bench.machine import describe_machine
    from emu3.bench.models import find_model_size
    from emu3.checkpoints.loading import DeviceConfig
    from emu3.models.precision import parse_precision

    find_model_size(size)
    place = DeviceConfig.resolve(device, None).device
    precisions = [parse_precision(name) for name in dtype or ["fp32"]]
    chosen = {find_method(name) for name in way or METHODS}
    cases = [
        Case(size, name, precision.name, str(place), seconds)
        for precision in precisions
        for name, method in METHODS.items()
        if name in chosen and (precision.bits is None or method.quantized)
    ]
    if not cases:
        raise InputError("nothing to measure: transformers runs fp32 and bf16 only")
    results = []
    with count_progress("measuring", len(cases)) as advance:
        for result in run_all(cases):
            results.append(result)
            advance(1)
    machine = describe_machine(torch.device(place))
    rows = [{**asdict(each), "bandwidth_fraction": each.bandwidth_fraction} for each in results]
    report = {"machine": machine, "results": rows}
    if output is not None:
        with atomic_write(output) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(report))
        return
    print_results(results)
    typer.echo(", ".join(f"{value}" for value in machine.values()))
