"""Draw documents from several sources by weight, each source in a new order every epoch.

The next source is the one furthest below its share, so after any number of draws each source has
its share to within two documents. The documents of a source follow a permutation that depends only
on the seed, the source and the epoch. So the number of documents drawn from each source is the
whole state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emu3.errors import InputError


class Mixture:
    """An endless sequence of documents from sources with `sizes` documents.

    A weight is a share of documents, not of token ids; weights need not sum to 1. Raises InputError
    if a source is empty or a weight is not positive.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        if not sizes or len(sizes) != len(weights):
            raise InputError(f"{len(sizes)} sources and {len(weights)} weights; give one for each")
        for number, size in enumerate(sizes):
            if size < 1:
                raise InputError(f"source {number} of the mixture is empty")
        if any(not (weight > 0 and math.isfinite(weight)) for weight in weights):
            raise InputError(f"weights {list(weights)}: each must be a positive number")
        self.sizes = list(sizes)
        self.shares = [weight / math.fsum(weights) for weight in weights]
        self.seed = seed
        self.drawn = [0] * len(sizes)  # documents drawn from each source
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}  # epoch and order, by source

    def draw(self) -> tuple[int, int]:
        """The next document: its source, and its number in the source."""
        total = sum(self.drawn) + 1
        deficits = [
            share * total - drawn for share, drawn in zip(self.shares, self.drawn, strict=True)
        ]
        source = deficits.index(max(deficits))
        epoch, position = divmod(self.drawn[source], self.sizes[source])
        self.drawn[source] += 1
        return source, int(self._order(source, epoch)[position])

    def state_dict(self) -> dict[str, Any]:
        """The state, as numbers and lists."""
        return {
            "seed": self.seed,
            "sizes": list(self.sizes),
            "shares": list(self.shares),
            "drawn": list(self.drawn),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises InputError if it belongs to another mixture."""
        for name in ("seed", "sizes", "shares"):
            if state.get(name) != getattr(self, name):
                raise InputError(
                    f"the state belongs to another mixture: {name} {state.get(name)} instead of "
                    f"{getattr(self, name)}"
                )
        self.drawn = list(state["drawn"])

    def _order(self, source: int, epoch: int) -> NDArray[np.int64]:
        cached = self._orders.get(source)
        if cached is None or cached[0] != epoch:
            random = np.random.default_rng((self.seed, source, epoch))
            cached = self._orders[source] = (epoch, random.permutation(self.sizes[source]))
        return cached[1]
