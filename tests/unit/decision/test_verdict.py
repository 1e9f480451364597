from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.decision.verdict import conformal_p_value, judge, limits
from service.image.prepare import PrepareRecipe, plan_tiles
from service.types import AnomalyMap, Decision, Thresholds

PLAN = plan_tiles(100, 80, PrepareRecipe(value=100), global_map=False)
scores = st.floats(-10, 10, width=32)


def flat(score: float) -> AnomalyMap:
    """A map whose maximum is `score`, in one cell."""
    cells = np.full((PLAN.rows, PLAN.columns), -100, np.float32)
    cells[7, 9] = score
    return AnomalyMap(cells, cells, None, PLAN)


@given(
    score=scores,
    review=scores,
    band=st.floats(0, 5),
    override=st.none() | scores,
    calibration=st.lists(scores, min_size=1, max_size=30),
)
def test_score_regions_and_verdict_never_contradict_each_other(
    score: float, review: float, band: float, override: float | None, calibration: list[float]
) -> None:
    thresholds = limits(review, review + band, override)
    assert thresholds.review <= thresholds.reject
    verdict = judge(flat(score), thresholds, sorted(calibration))
    assert verdict.score == score
    assert (verdict.decision is Decision.OK) == (not verdict.regions) == (score <= thresholds.review)
    assert (verdict.decision is Decision.NOT_OK) == (score > thresholds.reject) == verdict.is_anomalous
    assert verdict.decision is not Decision.UNDECIDABLE
    if verdict.regions:
        assert max(region.peak_score for region in verdict.regions) == score


@given(score=scores)
def test_a_threshold_equal_to_the_score_does_not_reject(score: float) -> None:
    assert judge(flat(score), Thresholds(score, score), [0.0]).decision is Decision.OK


def test_what_cannot_be_judged_has_no_region_and_says_why() -> None:
    verdict = judge(flat(5), Thresholds(0, 1), [0.0], ("too dark", "too blurred"))
    assert verdict.decision is Decision.UNDECIDABLE
    assert verdict.regions == ()
    assert verdict.reasons == ("too dark", "too blurred")
    assert not verdict.is_anomalous


@pytest.mark.parametrize(
    ("value", "reason"), [(-np.inf, "region of interest"), (np.nan, "not finite"), (np.inf, "not finite")]
)
def test_no_number_is_no_verdict(value: float, reason: str) -> None:
    cells = np.full((PLAN.rows, PLAN.columns), -np.inf, np.float32)
    cells[3, 3] = value
    verdict = judge(AnomalyMap(cells, cells, None, PLAN), Thresholds(0, 1), [0.0])
    assert verdict.decision is Decision.UNDECIDABLE
    assert reason in verdict.reasons[0]
    assert 0 < verdict.p_value <= 1


def test_p_is_the_share_of_normal_parts_that_score_as_high() -> None:
    calibration = [0.1, 0.2, 0.2, 0.4]
    assert conformal_p_value(0.05, calibration) == 1
    assert conformal_p_value(0.2, calibration) == 4 / 5  # ties count as high
    assert conformal_p_value(0.3, calibration) == 2 / 5
    assert conformal_p_value(9, calibration) == 1 / 5  # n parts cannot promise less than 1/(n+1)


@given(st.lists(scores, min_size=1, max_size=40), scores, scores)
def test_p_falls_as_the_score_rises(calibration: list[float], one: float, other: float) -> None:
    ascending = sorted(calibration)
    low, high = sorted((one, other))
    assert conformal_p_value(high, ascending) <= conformal_p_value(low, ascending)
    expected = (1 + sum(score >= low for score in ascending)) / (len(ascending) + 1)
    assert conformal_p_value(low, ascending) == pytest.approx(expected)


def test_the_caller_s_threshold_never_leaves_a_review_band_above_it() -> None:
    assert limits(0.3, 0.6) == Thresholds(0.3, 0.6)
    assert limits(0.3, 0.6, 0.9) == Thresholds(0.3, 0.9)
    assert limits(0.3, 0.6, 0.1) == Thresholds(0.1, 0.1)
