from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.conformal import limits, part_scores, threshold, without_highest

scores = st.lists(st.floats(-5, 5), min_size=3, max_size=300).map(sorted)


@given(scores, st.floats(0.001, 0.4))
def test_a_conformal_threshold_is_the_least_that_keeps_its_promise(values: list[float], rate: float) -> None:
    found, rule = threshold(values, rate)
    n = len(values)
    if rule.method == "conformal":
        below = sum(value <= found for value in values)
        assert below >= (n + 1) * (1 - rate) - 1e-6
        assert sum(value < found for value in values) < (n + 1) * (1 - rate)
    else:
        assert (n + 1) * (1 - rate) > n  # only with too few parts
        assert found >= max(values)


def test_the_promise_holds_on_new_parts() -> None:
    rng = np.random.default_rng(0)
    rejected = []
    for _ in range(400):
        found, _ = threshold(sorted(rng.normal(size=199)), 0.05)
        rejected.append((rng.normal(size=200) > found).mean())
    assert 0.04 < np.mean(rejected) <= 0.0525


def test_one_percent_needs_ninety_nine_parts() -> None:
    assert threshold(list(np.linspace(0, 1, 99)), 0.01)[1].method == "conformal"
    assert threshold(list(np.linspace(0, 1, 98)), 0.01)[1].method == "fitted_tail"


def test_the_extrapolated_threshold_rises_as_the_rate_falls() -> None:
    values = sorted(np.random.default_rng(1).exponential(size=30))
    found = [threshold(values, rate)[0] for rate in (0.03, 0.01, 0.001)]
    assert found == sorted(found)
    assert found[2] > found[0]


def test_a_part_counts_once_with_its_highest_score() -> None:
    parts = ["a", "b", "a", "c"]
    assert list(part_scores(parts, [3.0, 1.0, 5.0, 2.0]).items()) == [("b", 1.0), ("c", 2.0), ("a", 5.0)]
    with pytest.raises(ValueError, match="argument"):
        part_scores(parts, [1.0])


def test_a_threshold_that_stands_on_one_part_is_told_from_one_that_does_not() -> None:
    others = [0.02, 0.05, 0.1, 0.11, 0.13, 0.2, 0.25, 0.31]
    found = without_highest([*others, 1.03], 0.01)
    assert found == threshold(others, 0.01)[0]
    assert without_highest([*others, 0.33], 0.01) is None
    assert without_highest([*np.linspace(0, 1, 250), 9.0], 0.01) is None  # counted, the highest has no say
    assert without_highest([0.1, 0.9], 0.01) is None


def test_the_review_band_opens_at_five_times_the_rate() -> None:
    values = list(np.linspace(0, 1, 199))
    found = limits(values, 0.01)
    assert (found.reject, found.review) == (threshold(values, 0.01)[0], threshold(values, 0.05)[0])
    assert found.review_rule.false_reject_rate == pytest.approx(0.05)
    assert limits(values, 0.4).review_rule.false_reject_rate == 0.5
