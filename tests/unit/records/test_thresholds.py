from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.records.entities import Review
from service.records.store import Records
from service.records.thresholds import MOST_CANDIDATES, Reviewed, advise, rate, read_reviewed, suggest
from service.types import Decision, ModelIdentity
from tests.unit.records.making import record, region

SCORES = st.floats(0, 10, allow_subnormal=False)
REVIEWED = st.lists(
    st.builds(Reviewed, score=SCORES, decided=st.sampled_from(Decision), flawed=st.booleans()), max_size=80
)


def seen(good: list[float], flawed: list[float]) -> list[Reviewed]:
    return [Reviewed(score, Decision.OK, False) for score in good] + [
        Reviewed(score, Decision.NOT_OK, True) for score in flawed
    ]


def test_rates_count_what_a_threshold_would_do() -> None:
    advice = advise(seen([0.1, 0.2, 0.6], [0.4, 0.8]), present=[0.5])
    found = {round(each.threshold, 9): (each.overkill.count, each.escape.count) for each in advice.candidates}
    assert found[0.5] == (1, 1)
    assert found[0.3] == (1, 0)
    assert found[0.7] == (0, 1)
    assert (advice.good, advice.flawed) == (3, 2)


def test_a_score_at_the_threshold_is_passed_as_the_detector_does() -> None:
    (candidate,) = advise(seen([0.5], [0.5]), present=[0.5]).candidates
    assert (candidate.overkill.count, candidate.escape.count) == (0, 1)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 30, 0.0, 0.1157), (1, 10, 0.0025, 0.4450), (10, 10, 0.6915, 1.0)],  # Clopper-Pearson tables
)
def test_intervals_are_clopper_and_pearson_s(count: int, total: int, low: float, high: float) -> None:
    found = rate(count, total)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert rate(0, 0).value is None


@settings(deadline=None)
@given(REVIEWED)
def test_advice_is_orderly(pictures: list[Reviewed]) -> None:
    advice = advise(pictures)
    thresholds = [each.threshold for each in advice.candidates]
    assert thresholds == sorted(thresholds)
    assert len(thresholds) <= MOST_CANDIDATES
    for before, after in zip(advice.candidates, advice.candidates[1:], strict=False):
        assert before.overkill.count >= after.overkill.count
        assert before.escape.count <= after.escape.count
    for each in advice.candidates:
        for share in (each.overkill, each.escape):
            assert 0 <= share.low <= (share.value or 0.0) <= share.high <= 1 or share.value is None


def test_a_suggestion_is_shown_to_be_safe() -> None:
    advice = advise(seen([number / 100 for number in range(100)], [2 + number / 100 for number in range(100)]))
    best = suggest(advice, 0.04)
    assert best is not None
    assert (best.overkill.count, best.escape.count) == (0, 0)
    assert best.escape.high == pytest.approx(0.0362, abs=1e-3)
    assert suggest(advice, 0.01) is None  # a hundred flaws cannot show one in a hundred


def test_cautions_name_what_was_not_looked_at() -> None:
    flagged = [Reviewed(0.5, Decision.NOT_OK, number % 2 == 0) for number in range(80)]
    assert [word for word in advise(flagged).cautions if "judged ok" in word]
    assert advise(seen([0.1] * 30, [0.5] * 30)).cautions == ()
    assert len(advise([]).cautions) == 3


def test_reviews_of_one_form_of_a_model_are_read_once_each(records: Records) -> None:
    other = ModelIdentity("polka-dot", 1, "float32", "cpu")
    two = (region(0.3), region(0.4, x=90))
    records.save(
        [
            record(1, Decision.NOT_OK, score=0.9),
            record(2, Decision.NOT_OK, score=0.8),
            record(3, score=0.1),
            record(4, score=0.15),
            record(5, Decision.NOT_OK, model=other),
            record(6, Decision.UNDECIDABLE, score=None),
            record(7, Decision.NOT_OK, regions=two, score=0.4),
            record(8, Decision.NOT_OK),
        ]
    ).result(20)
    words = [(1, "right"), (2, "right"), (2, "overkill"), (3, "right"), (4, "escape"), (5, "right"), (6, "escape")]
    for number, word in words:
        records.review(f"{number:032x}", Review(word, "Kim")).result(20)  # type: ignore[arg-type]
    records.review(f"{7:032x}", Review("overkill", "Kim", region=0)).result(20)
    assert set(read_reviewed(records.database, "polka-dot", 1, "int8")) == {
        Reviewed(0.9, Decision.NOT_OK, True),
        Reviewed(0.8, Decision.NOT_OK, False),
        Reviewed(0.1, Decision.OK, False),
        Reviewed(0.15, Decision.OK, True),
    }
