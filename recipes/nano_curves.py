"""Draw nano's training curves: `python -m recipes.nano_curves` reads docs/nano/*.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

TOKENIZER = "vision", "picture"
DECODER = (
    *("decoder", "longer", "surer", "namer", "freer", "hands"),  # pictures
    *("course", "settled", "further", "larger", "both", "coherent"),  # clips, too
    *("wide", "drawn", "calm"),
)
"""Runs, each from where the last one ended."""


def read(path: Path) -> dict[str, list[float]]:
    """Columns of a log; where a run was resumed, the later line of a step counts."""
    lines = {line["step"]: line for line in map(json.loads, path.read_text().splitlines())}
    rows = [lines[step] for step in sorted(lines)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def count_on(logs: list[dict[str, list[float]]]) -> None:
    """Count on the steps of runs that went on from one another, in their place."""
    done = 0.0
    for log in logs:
        log["step"] = [done + step for step in log["step"]]
        done = log["step"][-1]


def main(folder: Path) -> None:
    """One figure, four panels: reconstruction twice, loss on vision tokens and on text tokens."""
    vision, picture, *decoder = (read(folder / f"{name}.jsonl") for name in (*TOKENIZER, *DECODER))
    count_on(decoder)
    panels = [
        ([vision], "psnr", "vision tokenizer: PSNR of training batches, dB"),
        ([picture], "psnr", "the same, codes standing still"),
        (decoder, "vision", "decoder: cross-entropy of codes, nats"),
        (decoder, "text", "decoder: cross-entropy of text, nats"),
    ]
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.4), constrained_layout=True)
    for axis, (logs, name, title) in zip(axes, panels, strict=True):
        for log in logs:
            axis.plot(log["step"], log[name], linewidth=1.5)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step", fontsize=9)
        axis.grid(alpha=0.3)
    figure.savefig(folder / "curves.png", dpi=80)


if __name__ == "__main__":
    main(Path("docs/nano"))
