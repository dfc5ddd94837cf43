"""What an evaluation found, as numbers, as a table and as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.files import atomic_write, check_writable
from recipes.nano.evaluation.proportions import Share


@dataclass(frozen=True)
class DrawingSettings:
    """How pictures were sampled; the names are those of the model's `image`."""

    guidance_scale: float = 3.0
    top_k: int = 2048
    top_p: float = 1.0
    temperature: float = 1.0

    @classmethod
    def of(cls, card: GenerationDefaults) -> DrawingSettings:
        """As a checkpoint's own card says."""
        manner = card.resolve()
        return cls(manner.guidance_scale, manner.top_k, manner.top_p, manner.temperature)


@dataclass(frozen=True)
class Figures:
    """What was found on one kind of pairs.

    `psnr` (dB, no picture counted above 100) and `ssim` are means over `reconstructed` scenes.
    """

    reconstructed: int
    psnr: float
    ssim: float
    shares: dict[str, Share]

    def to_dict(self) -> dict[str, object]:
        """Plain numbers only."""
        means = {"n": self.reconstructed, "psnr": self.psnr, "ssim": self.ssim}
        return {"reconstruction": means, **{k: v.to_dict() for k, v in self.shares.items()}}


@dataclass(frozen=True)
class NanoReport:
    """The figures for pairs trained on and held out, with what is needed to get them again."""

    samples: int
    seed: int
    drawing: DrawingSettings
    seen: Figures
    held_out: Figures

    def to_dict(self) -> dict[str, object]:
        """Everything as what JSON can hold."""
        settings = {"samples": self.samples, "seed": self.seed, **asdict(self.drawing)}
        figures = {"seen": self.seen.to_dict(), "held_out": self.held_out.to_dict()}
        return {"settings": settings, **figures}

    def table(self) -> Table:
        """One row a figure; shares with their 95% interval, ceilings as seen / held out."""
        table = Table(title=f"{self.samples} pairs of each kind, seed {self.seed}")
        for column in ("figure", "seen", "held out", "chance", "ceiling"):
            table.add_column(column, justify="left" if column == "figure" else "right")
        a, b = self.seen, self.held_out
        table.add_row("reconstruction, PSNR", f"{a.psnr:.2f} dB", f"{b.psnr:.2f} dB", "", "")
        table.add_row("reconstruction, SSIM", f"{a.ssim:.3f}", f"{b.ssim:.3f}", "", "")
        for name, seen in a.shares.items():
            held = b.shares[name]
            ceiling = f"{seen.ceiling:.1%} / {held.ceiling:.1%}"
            row = (name.replace("_", ", "), str(seen), str(held), f"{seen.chance:.2%}", ceiling)
            table.add_row(*row)
        return table

    def print(self, console: Console | None = None) -> None:
        """Print the table, to the terminal unless told otherwise."""
        (Console() if console is None else console).print(self.table())


def save_report(parts: dict[str, dict[str, object]], path: Path) -> None:
    """Write reports by name as JSON, whole or not at all; InputError if it cannot be there."""
    check_writable(path)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(parts, indent=2) + "\n")
