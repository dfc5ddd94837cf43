"""A share of right answers with what is needed to judge it: its interval, chance and ceiling."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

_Z = 1.959964  # standard deviations that hold 95% of a normal distribution


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95% Wilson interval of a share, as (low, high) in [0, 1]; (0, 1) if n is 0.

    Unlike the usual normal interval it stays sensible at 0% and at 100%.
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding must not push a bound past the share itself.
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def same_answer(said: str, right: str) -> bool:
    """Whether an answer is exact, but for case, outer spaces and a full stop."""
    said, right = (text.strip().lower().rstrip(".").rstrip() for text in (said, right))
    return said == right


@dataclass(frozen=True)
class Share:
    """`hits` of `n` were right; `chance` and `ceiling` are the shares of luck and perfection."""

    hits: int
    n: int
    chance: float
    ceiling: float

    @classmethod
    def of(cls, right: list[bool], *, chance: float, ceiling: float = 1.0) -> Share:
        """Count the right ones."""
        return cls(sum(right), len(right), chance, ceiling)

    @property
    def value(self) -> float:
        """The share in [0, 1], 0 if there was nothing to do."""
        return self.hits / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval of the share."""
        return wilson(self.hits, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"

    def to_dict(self) -> dict[str, float]:
        """Everything, the share and its interval included, as plain numbers."""
        low, high = self.interval
        return {"share": self.value, "low": low, "high": high, **asdict(self)}
