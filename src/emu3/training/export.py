"""Export of a trained model: two checkpoint formats and a model card.

README.md        model card: data, preset, hardware, metrics
baai/            BAAI's format, with the vision tokenizer
transformers/    the same weights in transformers' format
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

MODEL_CARD = "README.md"
BAAI_FOLDER, TRANSFORMERS_FOLDER = "baai", "transformers"

FINAL_METRICS = (
    "loss",
    "text_loss",
    "vision_loss",
    "preference_loss",
    "next_token_loss",
    "margin",
    "accuracy",
)
"""Metrics whose last value the model card lists."""

MEDIAN_METRICS = {
    "samples_per_second": "samples a second",
    "tokens_per_second": "tokens a second",
    "mfu": "model FLOPs utilization (MFU)",
}
"""Metrics whose median over the run the model card lists."""


@dataclass(frozen=True)
class ModelCardData:
    """Content of the model card that the checkpoint does not have."""

    data: str  # training data and its licences
    hardware: str  # e.g. "2 cores of a Xeon"
    preset: Preset
    metrics_log: Path | None = None  # the run's log.jsonl
    evaluation: Mapping[str, object] = field(default_factory=dict)  # results by name


def export_model(checkpoint: Checkpoint, model_card_data: ModelCardData, folder: Path) -> None:
    """Write both formats and the model card to `folder`, atomically; an existing folder is
    replaced.

    Raises InputError on an adapter that is not merged, on a metrics log that cannot be read, and as
    `Checkpoint.save`.
    """
    if has_adapter(checkpoint.decoder):
        raise InputError("the model has a LoRA adapter; merge it before exporting")
    check_writable(folder.parent / f"{folder.name}.json")
    text = model_card(checkpoint, model_card_data)
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        checkpoint.save(temporary / BAAI_FOLDER)
        convert_checkpoint(
            temporary / BAAI_FOLDER, None, temporary / TRANSFORMERS_FOLDER, format="hf"
        )
        (temporary / MODEL_CARD).write_text(text, encoding="utf-8")


def model_card(checkpoint: Checkpoint, model_card_data: ModelCardData) -> str:
    """The model card in Markdown, with the YAML header of the Hugging Face hub."""
    defaults, preset = checkpoint.defaults, model_card_data.preset
    header = ["---", f"license: {defaults.license.lower()}", "tags:", "- emu3", "---"]
    count = sum(weight.numel() for weight in checkpoint.decoder.parameters())
    parts = [
        "\n".join(header),
        f"# {checkpoint.name}: {preset.name}",
        defaults.description,
        f"{count:,} parameters in {checkpoint.precision}, and a vision tokenizer. "
        f"`{BAAI_FOLDER}/` has BAAI's format, `{TRANSFORMERS_FOLDER}/` that of transformers.",
        f"## Data\n\n{model_card_data.data}",
        f"## Training\n\n{_table(('setting', 'value', 'source'), _settings(preset))}",
        f"## Hardware\n\n{model_card_data.hardware}",
    ]
    if model_card_data.metrics_log:
        reports = read_metrics_log(model_card_data.metrics_log)
        parts.append(_table(("training metric", "value"), _metrics(reports)))
    if model_card_data.evaluation:
        rows = [(name, _format(value)) for name, value in model_card_data.evaluation.items()]
        parts.append(f"## Evaluation\n\n{_table(('metric', 'value'), rows)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def read_metrics_log(path: Path) -> list[dict[str, float]]:
    """The lines of a run's `log.jsonl`, oldest first; raises InputError if there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        reports = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a metrics log ({error})") from None
    if not reports or any("step" not in report for report in reports):
        raise InputError(f"{path}: not a metrics log; a run writes one as log.jsonl")
    return reports


def _settings(preset: Preset) -> Iterator[tuple[str, str, str]]:
    """Name, value and source of each field of a preset."""
    for each in fields(preset):
        if each.name not in ("name", "from_paper", "from_script"):
            value = getattr(preset, each.name)
            shown = "random weights" if value == "" else _format(value)
            yield each.name.replace("_", " "), shown, preset.source(each.name)


def _metrics(reports: list[dict[str, float]]) -> Iterator[tuple[str, str]]:
    last = reports[-1]
    yield "steps", _format(last["step"])
    for name in FINAL_METRICS:
        if name in last:
            yield f"{name.replace('_', ' ')}, last", _format(last[name])
    for name, title in MEDIAN_METRICS.items():
        if values := [report[name] for report in reports if name in report]:
            yield f"{title}, median", _format(median(values))
    if memory := [report["peak_memory_gb"] for report in reports if "peak_memory_gb" in report]:
        yield "peak memory", f"{max(memory):.2f} GB"


def _format(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, LossWeights):
        return ", ".join(f"{each.name} {getattr(value, each.name):g}" for each in fields(value))
    if isinstance(value, tuple):
        return " to ".join(_format(each) for each in dict.fromkeys(value))
    return str(value)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
