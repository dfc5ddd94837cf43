"""The result of an evaluation, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from rich.console import Console
from rich.table import Table

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.errors import InputError
from emu3.evaluation import Proportion

MEANS = {
    "psnr": ("reconstruction, PSNR", "{:.2f} dB"),
    "ssim": ("reconstruction, SSIM", "{:.3f}"),
    "psnr_gain": ("continuation, PSNR above repeating the last frame", "{:+.2f} dB"),
}
"""The name of each mean in the table, and its format."""


@dataclass(frozen=True)
class SamplingSettings:
    """How images and videos were sampled; the names are those of `Emu3.image`."""

    guidance_scale: float = 3.0
    top_k: int = 2048
    top_p: float = 1.0
    temperature: float = 1.0

    @classmethod
    def of(cls, defaults: GenerationDefaults) -> Self:
        """The settings that a checkpoint recommends."""
        resolved = defaults.resolve()
        return cls(resolved.guidance_scale, resolved.top_k, resolved.top_p, resolved.temperature)


@dataclass(frozen=True)
class Metrics:
    """What was measured on one kind of pairs.

    `means` are over `n` images or videos; one is None where nothing could be measured.
    """

    n: int
    means: Mapping[str, float | None]
    proportions: Mapping[str, Proportion]

    def to_dict(self) -> dict[str, object]:
        """Plain numbers."""
        proportions = {name: each.to_dict() for name, each in self.proportions.items()}
        return {"means": {"n": self.n, **self.means}, **proportions}


@dataclass(frozen=True)
class Report:
    """The metrics of seen and held-out pairs, and the settings that reproduce them."""

    title: str
    samples: int
    seed: int
    sampling: SamplingSettings
    seen: Metrics
    held_out: Metrics

    def to_dict(self) -> dict[str, object]:
        """What JSON can hold."""
        settings = {"samples": self.samples, "seed": self.seed, **asdict(self.sampling)}
        metrics = {"seen": self.seen.to_dict(), "held_out": self.held_out.to_dict()}
        return {"settings": settings, **metrics}

    def table(self) -> Table:
        """One row per metric: proportions with their 95% interval, bounds as seen / held out."""
        table = Table(title=f"{self.title}: {self.samples} pairs of each kind, seed {self.seed}")
        for column in ("metric", "seen", "held out", "chance", "upper bound"):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for name in self.seen.means:
            label, form = MEANS[name]
            values = (each.means[name] for each in (self.seen, self.held_out))
            table.add_row(label, *("" if v is None else form.format(v) for v in values), "", "")
        for name, seen in self.seen.proportions.items():
            held_out = self.held_out.proportions[name]
            bound = f"{seen.upper_bound:.1%} / {held_out.upper_bound:.1%}"
            label = name.replace("_", " ")
            table.add_row(label, str(seen), str(held_out), f"{seen.chance:.2%}", bound)
        return table

    def print(self, console: Console | None = None) -> None:
        """Print the table, to the terminal by default."""
        (Console() if console is None else console).print(self.table())


def check_arguments(samples: int, held_out_pairs: int, seed: int) -> None:
    """Raise InputError on more samples than there are held-out pairs, and on a negative seed."""
    if not 1 <= samples <= held_out_pairs:
        raise InputError(
            f"samples must be 1 to {held_out_pairs}, the number of held-out pairs, not {samples}"
        )
    if seed < 0:
        raise InputError(f"seed must be 0 or more, not {seed}")
