"""Codes replaced in what the model reads, never in what it must say.

Who has read half a picture can often guess the rest from it alone, and forgets the words that asked
for it. With some codes wrong the words count at every code: word dropout, as Bowman et al. 2016
(arXiv 1511.06349) feed it to a language model that ignores its condition. Here other codes stand
in, not a mask, since a code that was drawn wrong looks like any other, too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def replace_visual_tokens(
    ids: Tensor, visual: slice, share: float, pool: Tensor, rng: np.random.Generator
) -> Tensor:
    """A copy of ids [L] in which each visual one gives way, with probability `share`, to any of
    `pool` [N] ids by chance.
    """
    is_visual = (ids >= visual.start) & (ids < visual.stop)
    chosen = is_visual & torch.from_numpy(rng.random(len(ids)) < share)
    others = pool[torch.from_numpy(rng.integers(len(pool), size=len(ids)))]
    return torch.where(chosen, others, ids)
