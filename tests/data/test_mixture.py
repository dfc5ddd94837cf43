"""Shares match weights, every epoch sees all, and going on is never having stopped."""

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


def test_shares_match_the_weights_at_any_time() -> None:
    mixture = Mixture(SIZES, WEIGHTS, seed=1)
    counts = [0, 0, 0]
    for turn in range(1, 5000):
        counts[mixture.draw()[0]] += 1
        for count, weight in zip(counts, WEIGHTS, strict=True):
            assert abs(count - turn * weight / sum(WEIGHTS)) < 2


def test_every_epoch_of_a_source_has_each_document_once_in_another_order() -> None:
    mixture = Mixture([7], [1.0], seed=3)
    numbers = iter(number for _, number in draws(mixture, 70))
    epochs = [tuple(islice(numbers, 7)) for _ in range(10)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 5


@pytest.mark.parametrize("stop", [0, 1, 39, 400])
def test_going_on_is_never_having_stopped(stop: int) -> None:
    whole = draws(Mixture(SIZES, WEIGHTS, seed=2), 800)
    first = Mixture(SIZES, WEIGHTS, seed=2)
    assert draws(first, stop) == whole[:stop]
    second = Mixture(SIZES, WEIGHTS, seed=2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert draws(second, 800 - stop) == whole[stop:]


def test_the_seed_decides() -> None:
    runs = Counter(tuple(draws(Mixture(SIZES, WEIGHTS, seed), 60)) for seed in (0, 0, 1))
    assert sorted(runs.values()) == [1, 2]


@pytest.mark.parametrize(
    ("sizes", "weights", "says"),
    [
        ([], [], "0 sources"),
        ([1, 2], [1.0], "2 sources with 1 weights"),
        ([1, 0], [1.0, 1.0], "source 1 of the mixture is empty"),
        ([1], [0.0], "above zero"),
        ([1], [float("nan")], "above zero"),
    ],
)
def test_what_is_no_mixture(sizes: list[int], weights: list[float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Mixture(sizes, weights, seed=0)


@pytest.mark.parametrize(
    "other", [([5, 40, 14], WEIGHTS, 1), (SIZES, [1, 1, 1], 1), (SIZES, WEIGHTS, 2)]
)
def test_the_state_of_another_mixture_is_refused(
    other: tuple[list[int], list[float], int],
) -> None:
    state = Mixture(*other).state_dict()
    with pytest.raises(InputError, match="another mixture"):
        Mixture(SIZES, WEIGHTS, seed=1).load_state_dict(state)
