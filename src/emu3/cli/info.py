"""`emu3 info`: how large a checkpoint is, and what it takes to run it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emu3.cli.options import Vision

if TYPE_CHECKING:
    from emu3.cli.checkpoint_summary import Facts

EPILOG = """
[bold]Examples[/bold]

emu3 info nano

emu3 info ./Emu3-Gen --vision ./Emu3-VisionTokenizer --json

Reads the configs and the headers of the weight files, no weights.
"""


def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="nano, a folder, or a hub id.")
    ] = "nano",
    vision: Vision = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs; sizes in bytes.")] = False,
) -> None:
    """Say what a checkpoint is and what it needs."""
    from emu3.cli.checkpoint_summary import Facts

    facts = Facts.of(model, vision)
    if as_json:
        typer.echo(json.dumps(facts.to_dict(), indent=2, ensure_ascii=False))
        return
    Console().print(table(facts))


def table(facts: Facts) -> Table:
    """One row a fact, in groups."""
    rows = Table(title=Text(facts.name), show_header=False, title_justify="left")
    for group in (_what(facts), _sizes(facts), _needs(facts)):
        for name, value in group.items():
            rows.add_row(Text(name), Text(value))
        rows.add_section()
    return rows


def _what(facts: Facts) -> dict[str, str]:
    about = {"about": facts.defaults.description} if facts.defaults.description else {}
    return {
        **about,
        "tasks": ", ".join(facts.defaults.tasks),
        "licence": facts.defaults.license,
        "decoder in": str(facts.folder),
        "vision tokenizer in": str(facts.vision_folder),
    }


def _sizes(facts: Facts) -> dict[str, str]:
    d, v = facts.decoder.config, facts.vision.config
    words, picture = facts.vocabulary, facts.picture
    heads = f"{d['num_attention_heads']} heads on {d['num_key_value_heads']} of keys and values"
    factor = 2 ** (len(v["ch_mult"]) - 1)
    height, width = picture["grid"]
    return {
        "decoder": f"{facts.decoder.parameters:,} parameters",
        "  blocks": f"{d['num_hidden_layers']} of {d['hidden_size']} channels, {heads}",
        "  MLP": f"{d['intermediate_size']} channels",
        "  context": f"{facts.context:,} ids",
        "vision tokenizer": f"{facts.vision.parameters:,} parameters",
        "  codes": f"{v['codebook_size']:,} of {v['embed_dim']} channels",
        "  a code stands for": f"{factor}x{factor} px, {v['temporal_downsample_factor']} frames",
        "  channels": f"{v['ch']} times {', '.join(map(str, v['ch_mult']))}",
        "vocabulary": f"{words['total']:,} ids",
        "  of which": f"{words['text']:,} text, {words['control']:,} control, "
        f"{words['visual']:,} visual",
        "picture": f"{picture['pixels'][1]}x{picture['pixels'][0]} px",
        "  in codes": f"{height}x{width}, {picture['ids']:,} ids in all",
    }


def _needs(facts: Facts) -> dict[str, str]:
    weights = {f"decoder in {name}": amount(size) for name, size in facts.weight_bytes.items()}
    ids = f"a guided picture of {facts.cache['ids']:,} ids"
    caches = {k: amount(size) for k, size in facts.cache.items() if k != "ids"}
    return {
        **weights,
        "vision tokenizer, fp32 always": amount(4 * facts.vision.parameters),
        "cache of": ids,
        **{f"  in {name}": size for name, size in caches.items()},
        "weight files": f"{amount(facts.decoder.on_disk)} decoder, "
        f"{amount(facts.vision.on_disk)} vision tokenizer",
    }


def amount(size: int) -> str:
    """Bytes for people, in powers of 1000 as disks and hubs count."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"
