"""Shares, epochs and resuming of a mixture."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice

import pytest

from emu3.data.mixture import Mixture
from emu3.errors import InputError

SIZES = [5, 40, 13]
WEIGHTS = [0.2, 3.0, 1.0]


def draws(mixture: Mixture, count: int) -> list[tuple[int, int]]:
    return [mixture.draw() for _ in range(count)]


def test_shares_match_the_weights_after_any_number_of_draws() -> None:
    mixture = Mixture(SIZES, WEIGHTS, seed=1)
    counts = [0, 0, 0]
    for turn in range(1, 5000):
        counts[mixture.draw()[0]] += 1
        for count, weight in zip(counts, WEIGHTS, strict=True):
            assert abs(count - turn * weight / sum(WEIGHTS)) < 2


def test_every_epoch_has_each_document_once_in_a_new_order() -> None:
    mixture = Mixture([7], [1.0], seed=3)
    numbers = iter(number for _, number in draws(mixture, 70))
    epochs = [tuple(islice(numbers, 7)) for _ in range(10)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 5


@pytest.mark.parametrize("stop", [0, 1, 39, 400])
def test_resuming_gives_the_same_documents(stop: int) -> None:
    whole = draws(Mixture(SIZES, WEIGHTS, seed=2), 800)
    first = Mixture(SIZES, WEIGHTS, seed=2)
    assert draws(first, stop) == whole[:stop]
    second = Mixture(SIZES, WEIGHTS, seed=2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert draws(second, 800 - stop) == whole[stop:]


def test_seed_determines_the_order() -> None:
    runs = Counter(tuple(draws(Mixture(SIZES, WEIGHTS, seed), 60)) for seed in (0, 0, 1))
    assert sorted(runs.values()) == [1, 2]


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ([], [], "0 sources"),
        ([1, 2], [1.0], "2 sources and 1 weights"),
        ([1, 0], [1.0, 1.0], "source 1 of the mixture is empty"),
        ([1], [0.0], "positive number"),
        ([1], [float("nan")], "positive number"),
    ],
)
def test_invalid_mixtures_raise(sizes: list[int], weights: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mixture(sizes, weights, seed=0)


@pytest.mark.parametrize(
    "other", [([5, 40, 14], WEIGHTS, 1), (SIZES, [1, 1, 1], 1), (SIZES, WEIGHTS, 2)]
)
def test_state_of_another_mixture_raises(
    other: tuple[list[int], list[float], int],
) -> None:
    state = Mixture(*other).state_dict()
    with pytest.raises(InputError, match="another mixture"):
        Mixture(SIZES, WEIGHTS, seed=1).load_state_dict(state)
