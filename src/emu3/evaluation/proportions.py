"""Proportions of correct answers with confidence interval, chance level and upper bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

_Z = 1.959964  # standard deviations that hold 95% of a normal distribution


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of `hits / n` as (low, high) in [0, 1]; (0, 1) if `n` is 0.

    Unlike the normal approximation it stays inside of [0, 1] and is not empty at 0% and 100%.
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half_width = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding must not push a bound past the proportion itself.
    return min(share, max(0.0, centre - half_width)), max(share, min(1.0, centre + half_width))


def exact_match(answer: str, expected: str) -> bool:
    """Whether two answers are equal, ignoring case, outer spaces and a trailing full stop."""
    first, second = (text.strip().lower().rstrip(".").rstrip() for text in (answer, expected))
    return first == second


@dataclass(frozen=True)
class Proportion:
    """`hits` of `n` were correct. `chance` and `upper_bound` are proportions in [0, 1]."""

    hits: int
    n: int
    chance: float
    upper_bound: float

    @classmethod
    def of(cls, correct: Sequence[bool], *, chance: float, upper_bound: float = 1.0) -> Self:
        """Count the correct ones."""
        return cls(sum(correct), len(correct), chance, upper_bound)

    @property
    def value(self) -> float:
        """The proportion in [0, 1]; 0 if `n` is 0."""
        return self.hits / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson score interval."""
        return wilson_interval(self.hits, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"

    def to_dict(self) -> dict[str, float]:
        """All fields, the proportion and its interval as plain numbers."""
        low, high = self.interval
        return {"proportion": self.value, "low": low, "high": high, **asdict(self)}
