"""Readers of codes: they learn what codes tell, and nothing where codes tell nothing."""

from __future__ import annotations

import pytest
import torch

from recipes.nano_readers import READERS, share_named, trained

TABLE = torch.randn(2048, 4, generator=torch.Generator().manual_seed(0))
EPOCHS = {"one layer": 60, "hidden units": 8, "three convolutions": 5}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_names_what_differs(name: str) -> None:
    """Eight objects, each with a code of its own in the middle, or all with the same one."""
    plain = torch.randint(3, (8, 40, 8, 8), generator=torch.Generator().manual_seed(0))
    objects = torch.arange(8).repeat_interleave(8)
    shares = []
    for own in (torch.arange(8), torch.zeros(8, dtype=torch.long)):
        pictures = plain.clone()
        pictures[:, :, 1:7, 1:7] = 100 + own[:, None, None, None]
        reader = trained(READERS[name](), pictures[:, :32], TABLE, EPOCHS[name])
        shares.append(share_named(reader, pictures[:, 32:].flatten(0, 1), objects, TABLE))
    assert shares[0] > 0.9
    assert shares[1] < 0.4
