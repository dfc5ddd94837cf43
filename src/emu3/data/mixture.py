"""Several sources by weight, each in an order of its own that changes with the epoch.

The next source is the one that is furthest behind its share, so after any number of draws each
source has its share to within one or two documents. The next document of a source is the next
of a permutation that depends on the seed, the source and the epoch, and on nothing drawn before. So
the numbers of documents drawn are all there is to know about where one is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emu3.errors import InputError


class Mixture:
    """An endless walk through sources of `sizes` documents. Weights need not add up to one.

    A weight is a share of documents, not of ids. Raises InputError on sources that are empty and
    on weights that are not above zero.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        if not sizes or len(sizes) != len(weights):
            raise InputError(f"{len(sizes)} sources with {len(weights)} weights")
        for number, size in enumerate(sizes):
            if size < 1:
                raise InputError(f"source {number} of the mixture is empty")
        if any(not (weight > 0 and math.isfinite(weight)) for weight in weights):
            raise InputError(f"weights {list(weights)}: each must be above zero")
        self.sizes = list(sizes)
        self.shares = [weight / math.fsum(weights) for weight in weights]
        self.seed = seed
        self.drawn = [0] * len(sizes)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}  # of an epoch, by source

    def draw(self) -> tuple[int, int]:
        """The next document: its source, and its number there."""
        turn = sum(self.drawn) + 1
        behind = [
            share * turn - drawn for share, drawn in zip(self.shares, self.drawn, strict=True)
        ]
        source = behind.index(max(behind))
        epoch, place = divmod(self.drawn[source], self.sizes[source])
        self.drawn[source] += 1
        return source, int(self._order(source, epoch)[place])

    def state_dict(self) -> dict[str, Any]:
        """Where the walk is, in plain numbers and lists."""
        return {
            "seed": self.seed,
            "sizes": list(self.sizes),
            "shares": list(self.shares),
            "drawn": list(self.drawn),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises InputError on one of another mixture."""
        for name in ("seed", "sizes", "shares"):
            if state.get(name) != getattr(self, name):
                raise InputError(
                    f"the state is of another mixture: {name} {state.get(name)}, "
                    f"here {getattr(self, name)}"
                )
        self.drawn = list(state["drawn"])

    def _order(self, source: int, epoch: int) -> NDArray[np.int64]:
        held = self._orders.get(source)
        if held is None or held[0] != epoch:
            random = np.random.default_rng((self.seed, source, epoch))
            held = self._orders[source] = (epoch, random.permutation(self.sizes[source]))
        return held[1]
