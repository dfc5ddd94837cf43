"""What a finished stage hands on: the model in two layouts, and a card that says how it came to be.

README.md        data, stage, compute and figures
baai/            BAAI's layout, the vision tokenizer inside
transformers/    the same weights as transformers names them
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median

from emu3.checkpoints.convert import convert_checkpoint
from emu3.checkpoints.loading import Checkpoint
from emu3.errors import InputError
from emu3.files import atomic_write, check_writable
from emu3.training.lora import has_adapter
from emu3.training.presets import LossWeights, Preset

CARD = "README.md"
BAAI_FOLDER, TRANSFORMERS_FOLDER = "baai", "transformers"

LAST = ("loss", "text", "vision", "preference", "next_token", "margin", "right")
"""Numbers of a run's last report that a card repeats."""

TYPICAL = {
    "per_second": "documents a second",
    "ids_per_second": "ids a second",
    "ceiling_share": "share of the machine's FLOP/s",
}
"""Numbers whose median over a run's reports a card gives."""


@dataclass(frozen=True)
class ModelCardData:
    """What a card says that the weights do not."""

    data: str  # what it was trained on, licences included
    hardware: str  # what it was trained on, in words: "2 cores of a Xeon"
    preset: Preset
    metrics_log: Path | None = None  # the run's log.jsonl
    evaluation: Mapping[str, object] = field(default_factory=dict)  # measured afterwards, by name


def export_model(checkpoint: Checkpoint, provenance: ModelCardData, folder: Path) -> None:
    """Write both layouts and the card to `folder`, all of it or nothing; what was there goes.

    Raises InputError on an adapter that is not merged, on a journal that cannot be read, and as
    `Checkpoint.save`.
    """
    if has_adapter(checkpoint.decoder):
        raise InputError("the model has an adapter in it; merge it before it is exported")
    check_writable(folder.parent / f"{folder.name}.json")
    card = model_card(checkpoint, provenance)
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        checkpoint.save(temporary / BAAI_FOLDER)
        convert_checkpoint(
            temporary / BAAI_FOLDER, None, temporary / TRANSFORMERS_FOLDER, format="hf"
        )
        (temporary / CARD).write_text(card, encoding="utf-8")


def model_card(checkpoint: Checkpoint, provenance: ModelCardData) -> str:
    """The card in Markdown, its head in the YAML that the Hugging Face hub reads."""
    card, decoder = checkpoint.defaults, checkpoint.decoder
    head = ["---", f"license: {card.license.lower()}", "tags:", "- emu3", "---"]
    count = sum(weight.numel() for weight in decoder.parameters())
    parts = [
        "\n".join(head),
        f"# {checkpoint.name}: {provenance.preset.name}",
        card.description,
        f"{count:,} parameters in {checkpoint.precision}, and a vision tokenizer. "
        f"`{BAAI_FOLDER}/` is BAAI's layout, `{TRANSFORMERS_FOLDER}/` is that of transformers.",
        f"## Data\n\n{provenance.data}",
        f"## Stage\n\n{_table(('setting', 'value', 'from'), _settings(provenance.preset))}",
        f"## Compute\n\n{provenance.hardware}",
    ]
    reports = read_metrics_log(provenance.metrics_log) if provenance.metrics_log else []
    if reports:
        parts.append(_table(("measured in training", "value"), _measured(reports)))
    if provenance.evaluation:
        rows = [(name, _said(value)) for name, value in provenance.evaluation.items()]
        parts.append(f"## Figures\n\n{_table(('figure', 'value'), rows)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def read_metrics_log(path: Path) -> list[dict[str, float]]:
    """The reports of a run, oldest first; raises InputError where the file holds none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        reports = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no journal of a run ({error})") from None
    if not reports or any("step" not in report for report in reports):
        raise InputError(f"{path}: no journal of a run; a run's folder has one as log.jsonl")
    return reports


def _settings(stage: Preset) -> Iterator[tuple[str, str, str]]:
    """Every number of a stage with where it is from."""
    for each in fields(stage):
        if each.name not in ("name", "from_paper", "from_script"):
            value = getattr(stage, each.name)
            shown = "from scratch" if value == "" else _said(value)
            yield each.name.replace("_", " "), shown, stage.source(each.name)


def _measured(reports: list[dict[str, float]]) -> Iterator[tuple[str, str]]:
    last = reports[-1]
    yield "steps", _said(last["step"])
    for name in LAST:
        if name in last:
            yield f"{name.replace('_', ' ')}, last report", _said(last[name])
    for name, words in TYPICAL.items():
        if known := [report[name] for report in reports if name in report]:
            yield f"{words}, median", _said(median(known))
    if memory := [report["memory_gb"] for report in reports if "memory_gb" in report]:
        yield "peak memory", f"{max(memory):.2f} GB"


def _said(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, LossWeights):
        return ", ".join(f"{each.name} {getattr(value, each.name):g}" for each in fields(value))
    if isinstance(value, tuple):
        return " to ".join(_said(each) for each in dict.fromkeys(value))
    return str(value)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
