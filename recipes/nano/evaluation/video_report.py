"""What an evaluation of clips found, as numbers and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from recipes.nano.evaluation.proportions import Share
from recipes.nano.evaluation.report import DrawingSettings

WORDS = {
    "motion": "drawn, the motion right",
    "object": "drawn, the object right",
    "asked_motion": "asked how it moves",
    "asked_object": "asked what moves",
    "direction_kept": "gone on with, the direction kept",
    "direction_kept_silently": "the same, without saying what it sees",
    "object_kept": "after 15 s more, the object still itself",
}


@dataclass(frozen=True)
class MovingFigures:
    """What was found on one kind of pairs.

    `psnr` is the mean over true clips, dB; `gain` how many dB nearer to the true continuation
    drawn ones are than the last frame repeated, None where nothing moved on.
    """

    clips: int
    psnr: float
    gain: float | None
    shares: dict[str, Share]

    def to_dict(self) -> dict[str, object]:
        """Plain numbers only."""
        means = {"n": self.clips, "psnr": self.psnr, "gain": self.gain}
        return {"clips": means, **{name: share.to_dict() for name, share in self.shares.items()}}


@dataclass(frozen=True)
class MovingReport:
    """The figures for pairs of object and motion trained on and held out."""

    samples: int
    seed: int
    drawing: DrawingSettings
    seen: MovingFigures
    held_out: MovingFigures

    def to_dict(self) -> dict[str, object]:
        """Everything as what JSON can hold."""
        settings = {"samples": self.samples, "seed": self.seed, **asdict(self.drawing)}
        figures = {"seen": self.seen.to_dict(), "held_out": self.held_out.to_dict()}
        return {"settings": settings, **figures}

    def table(self) -> Table:
        """One row a figure; shares with their 95% interval, ceilings as seen / held out."""
        table = Table(title=f"clips: {self.samples} pairs of each kind, seed {self.seed}")
        for column in ("figure", "seen", "held out", "chance", "ceiling"):
            table.add_column(column, justify="left" if column == "figure" else "right")
        a, b = self.seen, self.held_out
        table.add_row("reconstruction, PSNR", f"{a.psnr:.2f} dB", f"{b.psnr:.2f} dB", "", "")
        gains = ("" if f.gain is None else f"{f.gain:+.2f} dB" for f in (a, b))
        table.add_row("gone on with, over the last frame", *gains, "", "")
        for name, seen in a.shares.items():
            held = b.shares[name]
            ceiling = f"{seen.ceiling:.1%} / {held.ceiling:.1%}"
            table.add_row(WORDS[name], str(seen), str(held), f"{seen.chance:.2%}", ceiling)
        return table

    def print(self, console: Console | None = None) -> None:
        """Print the table, to the terminal unless told otherwise."""
        (Console() if console is None else console).print(self.table())
