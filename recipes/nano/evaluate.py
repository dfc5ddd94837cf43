"""Evaluate nano on Emoji World: `python -m recipes.nano.evaluate`.

Prints the tables of docs/nano.md: generation, question answering and reconstruction, for pairs of
object and style that were trained on and for those held out, with chance level, upper bound and 95%
interval. `make eval` runs it. Images take minutes, videos a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emu3 import Emu3
from emu3.errors import InputError
from emu3.files import atomic_write, check_writable
from recipes.nano.emoji_world import Icons
from recipes.nano.evaluation import (
    NearestIconClassifier,
    SamplingSettings,
    evaluate_images,
    evaluate_videos,
)

PAIRS = {"images": 120, "video": 60}
"""How many pairs of each kind (seen, held out) are measured by default."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.nano.evaluate", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", default="nano", help="nano, a folder, or a hub id")
    parser.add_argument("--vision", help="the vision tokenizer, if it is not found")
    parser.add_argument("--device", help="cpu or cuda")
    parser.add_argument("--dtype", help="fp32, bf16, int8 or int4")
    parser.add_argument("--only", choices=sorted(PAIRS), help="images or video alone")
    parser.add_argument("--samples", type=int, help=f"pairs of each kind (default: {PAIRS})")
    parser.add_argument("--seed", type=int, default=0, help="of pairs, scenes and sampling")
    parser.add_argument("-o", "--output", type=Path, help="write the report there, as JSON")
    parser.add_argument("--sheets", type=Path, help="write contact sheets into this folder")
    return parser.parse_args(arguments)


def run(arguments: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Measure what was asked for, print each table, and write the report; returns the report."""
    if arguments.output is not None:
        check_writable(arguments.output)
    if arguments.sheets is not None:
        check_folder(arguments.sheets)
    model = Emu3.from_pretrained(
        arguments.model, vision=arguments.vision, device=arguments.device, dtype=arguments.dtype
    )
    defaults = model.checkpoint.defaults
    if arguments.only == "video" and "video" not in defaults.tasks:
        raise InputError(
            f"{model.checkpoint.name} was not trained on videos; leave out --only video"
        )
    icons = Icons.load()
    common: dict[str, Any] = {
        "icons": icons,
        "classifier": NearestIconClassifier.build(icons),
        "sampling": SamplingSettings.of(defaults),
        "seed": arguments.seed,
        "sheets": arguments.sheets,
    }
    report: dict[str, dict[str, object]] = {}
    for name, evaluate in (("images", evaluate_images), ("video", evaluate_videos)):
        if arguments.only in (None, name) and (name == "images" or "video" in defaults.tasks):
            samples = PAIRS[name] if arguments.samples is None else arguments.samples
            found = evaluate(model, samples=samples, **common)
            found.print()
            report[name] = found.to_dict()
    if arguments.output is not None:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def check_folder(folder: Path) -> None:
    """Raise InputError if no file could be written to a folder that may not exist yet."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the contact sheets")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    check_writable(existing / "seen.png")


if __name__ == "__main__":
    try:
        run(parse(None))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        print("interrupted; no report written", file=sys.stderr)
        raise SystemExit(130) from None
