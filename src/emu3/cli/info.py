"""`emu3 info`: the sizes and memory needs of a checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emu3.cli.options import Vision

if TYPE_CHECKING:
    from emu3.cli.checkpoint_summary import CheckpointSummary

EPILOG = """
[bold]Examples[/bold]

emu3 info nano

emu3 info ./Emu3-Gen --vision ./Emu3-VisionTokenizer --json

Reads config files and the headers of weight files, not the weights. For a model on the hub, only
these are downloaded.
"""


def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="nano, a checkpoint folder, or a hub id.")
    ] = "nano",
    vision: Vision = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with sizes in bytes.")
    ] = False,
) -> None:
    """Print the sizes and memory needs of a checkpoint."""
    from emu3.cli.checkpoint_summary import CheckpointSummary

    checkpoint = CheckpointSummary.read(model, vision)
    if as_json:
        typer.echo(json.dumps(checkpoint.to_dict(), indent=2, ensure_ascii=False))
        return
    Console(markup=False).print(table(checkpoint))  # a name may have brackets


def table(checkpoint: CheckpointSummary) -> Table:
    """The summary as a table with one row per property."""
    rows = Table(title=Text(checkpoint.name), show_header=False, title_justify="left")
    for section in (_general(checkpoint), _sizes(checkpoint), _memory(checkpoint)):
        for name, value in section.items():
            rows.add_row(Text(name), Text(value))
        rows.add_section()
    return rows


def _general(checkpoint: CheckpointSummary) -> dict[str, str]:
    defaults = checkpoint.defaults
    return {
        **({"description": defaults.description} if defaults.description else {}),
        "tasks": ", ".join(defaults.tasks),
        "license": defaults.license,
        "decoder folder": str(checkpoint.folder),
        "vision tokenizer folder": str(checkpoint.vision_folder),
    }


def _sizes(checkpoint: CheckpointSummary) -> dict[str, str]:
    d, v = checkpoint.decoder.config, checkpoint.vision.config
    vocabulary, image = checkpoint.vocabulary, checkpoint.image
    factor = 2 ** (len(v["ch_mult"]) - 1)
    height, width = image["grid"]
    return {
        "decoder": f"{checkpoint.decoder.parameters:,} parameters",
        "  layers": f"{d['num_hidden_layers']} of {d['hidden_size']} channels",
        "  attention heads": (
            f"{d['num_attention_heads']} query, {d['num_key_value_heads']} key/value"
        ),
        "  MLP": f"{d['intermediate_size']} channels",
        "  context": f"{checkpoint.context:,} tokens",
        "vision tokenizer": f"{checkpoint.vision.parameters:,} parameters",
        "  codebook": f"{v['codebook_size']:,} codes of {v['embed_dim']} channels",
        "  pixels per code": f"{factor}x{factor}, {v['temporal_downsample_factor']} frames",
        "  channels": f"{v['ch']} times {', '.join(map(str, v['ch_mult']))}",
        "vocabulary": f"{vocabulary['total']:,} tokens",
        "  of which": f"{vocabulary['text']:,} text, {vocabulary['control']:,} control, "
        f"{vocabulary['visual']:,} visual",
        "default image": f"{image['pixels'][1]}x{image['pixels'][0]} px",
        "  codes": f"{height}x{width}, {image['tokens']:,} tokens in all",
    }


def _memory(checkpoint: CheckpointSummary) -> dict[str, str]:
    weights = {
        f"decoder in {name}": format_bytes(size) for name, size in checkpoint.weight_bytes.items()
    }
    sizes = {k: format_bytes(size) for k, size in checkpoint.kv_cache.items() if k != "tokens"}
    return {
        **weights,
        "vision tokenizer, always fp32": format_bytes(4 * checkpoint.vision.parameters),
        "KV cache": f"of one image with guidance, {checkpoint.kv_cache['tokens']:,} tokens",
        **{f"  in {name}": size for name, size in sizes.items()},
        "weight files": f"{format_bytes(checkpoint.decoder.on_disk)} decoder, "
        f"{format_bytes(checkpoint.vision.on_disk)} vision tokenizer",
    }


def format_bytes(size: int) -> str:
    """A size with a decimal unit (powers of 1000), as disks and hubs use."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"
