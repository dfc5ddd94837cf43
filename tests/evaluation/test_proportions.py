"""Proportions and their intervals."""

from __future__ import annotations

import pytest

from emu3.evaluation import Proportion, exact_match, wilson_interval


def test_wilson_interval_has_published_values() -> None:
    assert wilson_interval(0, 10) == pytest.approx((0, 0.27753), abs=1e-4)
    assert wilson_interval(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.72247, 1), abs=1e-4)
    assert wilson_interval(0, 0) == (0, 1)


def test_proportion_counts_and_converts() -> None:
    half = Proportion.of([True, False], chance=0.1)
    assert (half.hits, half.n, half.value, half.upper_bound) == (1, 2, 0.5, 1.0)
    assert half.to_dict()["proportion"] == 0.5
    assert str(half) == "50.0% (9.5% to 90.5%)"
    assert Proportion.of([], chance=0.5).value == 0


@pytest.mark.parametrize("answer", ["a fox", " A Fox.\n", "A FOX ."])
def test_exact_match_ignores_case_spaces_and_full_stop(answer: str) -> None:
    assert exact_match(answer, "a fox")
    assert not exact_match(answer, "fox")
