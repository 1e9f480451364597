from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from itertools import product
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from service.errors import Conflict, InvalidParameter, NoSuchRecord
from service.records.entities import Caption, Review
from service.records.inspections import Filters
from service.records.report.data import UNLABELLED
from service.records.report.flaws import known_flaws
from service.records.report.gather import gather_rows
from service.records.reviews import ReviewOutcome, ReviewWork
from service.records.schema import WHOLE_PICTURE, labels
from service.records.store import Records
from service.types import Decision
from tests.unit.records.making import START, caption, record, region, words

ID = f"{1:032x}"


@pytest.fixture
def flawed(records: Records) -> Records:
    """One inspection of two flaws, the second the stronger."""
    two = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    item = record(
        1,
        Decision.NOT_OK,
        regions=(region(0.3), region(0.5, x=90)),
        descriptors=two,
        caption=caption("thread", "thread"),
    )
    records.save([item]).result(20)
    return records


def review(records: Records, verdict: Any = "right", label: str = "", **fields: Any) -> Any:
    return records.review(ID, Review(verdict, "Kim", label, **fields)).result(20)


def labelled(records: Records, label: str) -> bool:
    return bool(records.inspections.page(Filters(label=label)).records)


def labels_of(records: Records, number: int = 1) -> dict[int, str]:
    """The labels that a filter finds an inspection by, by region."""
    mine = sa.select(labels.c.region, labels.c.label).where(labels.c.inspection_id == f"{number:032x}")
    with records.database.reading() as connection:
        return {row.region: row.label for row in connection.execute(mine)}


def test_a_label_makes_a_case_of_the_strongest_region(flawed: Records) -> None:
    outcome = review(flawed, "right", "  loose   thread ", cause="loom end", action="brush", comment="seen twice")
    (case,) = flawed.cases()
    assert (case.label, case.cause, case.action) == ("loose thread", "loom end", "brush")
    assert (case.inspection_id, case.product, case.teacher_sha256) == (ID, "polka-dot", "e" * 64)
    assert case.descriptor.tolist() == [0, 1, 0]
    assert outcome.case is not None
    assert (outcome.case.case_id, outcome.withdrawn, outcome.accepted) == (case.case_id, (), "polka-dot")
    (stored,) = flawed.inspections.get(ID).reviews
    assert stored == outcome.review
    assert (stored.case_id, stored.at, stored.review.comment) == (case.case_id, START, "seen twice")


def test_a_named_region_is_meant(flawed: Records) -> None:
    review(flawed, "right", "hole", region=0)
    (case,) = flawed.cases()
    assert case.descriptor.tolist() == [1, 0, 0]
    assert labelled(flawed, "hole")
    assert labelled(flawed, "thread")  # the other region, and the picture
    with pytest.raises(InvalidParameter):
        review(flawed, "right", "hole", region=2)


def test_a_second_thought_replaces_the_case(flawed: Records) -> None:
    first = review(flawed, "right", "hole")
    second = review(flawed, "right", "cut")
    assert second.withdrawn == (first.case.case_id,)
    assert [case.label for case in flawed.cases()] == ["cut"]
    third = review(flawed, "overkill")
    assert third.withdrawn == (second.case.case_id,)
    assert list(flawed.cases()) == []
    assert [each.review.label for each in flawed.inspections.get(ID).reviews] == ["hole", "cut", ""]


def test_right_without_a_label_leaves_the_case(flawed: Records) -> None:
    review(flawed, "right", "hole")
    assert review(flawed, "right").withdrawn == ()
    assert [case.label for case in flawed.cases()] == ["hole"]


def test_a_person_s_label_goes_before_the_caption_s(flawed: Records) -> None:
    review(flawed, "right", "hole")
    flawed.caption(ID, caption("stain", "stain")).result(20)
    assert labels_of(flawed) == {0: "stain", 1: "hole", WHOLE_PICTURE: "hole"}  # of the other flaw nobody said anything
    review(flawed, "overkill")
    assert labels_of(flawed) == {}


def test_overkill_of_the_only_flaw_takes_the_picture_s_label_too(records: Records) -> None:
    records.save([record(1, Decision.NOT_OK, caption=caption("scratch"))]).result(20)
    review(records, "overkill", region=0)
    assert not labelled(records, "scratch")


def test_overkill_of_the_strongest_flaw_leaves_the_picture_the_next_one_s_label(flawed: Records) -> None:
    flawed.caption(ID, caption("thread", "scratch")).result(20)
    review(flawed, "overkill", region=1)
    assert labels_of(flawed) == {0: "thread", WHOLE_PICTURE: "thread"}


def test_words_that_come_after_a_review_without_a_label_are_found(records: Records) -> None:
    records.save([record(1, Decision.NOT_OK)]).result(20)
    review(records, "right")
    records.caption(ID, caption("scratch")).result(20)
    assert labels_of(records) == {0: "scratch", WHOLE_PICTURE: "scratch"}


def test_words_that_come_after_overkill_are_not_found(records: Records) -> None:
    records.save([record(1, Decision.NOT_OK)]).result(20)
    review(records, "overkill")
    records.caption(ID, caption("scratch")).result(20)
    assert labels_of(records) == {}


def test_a_verdict_that_holds_again_gives_back_the_caption_s_labels(flawed: Records) -> None:
    before = labels_of(flawed)
    review(flawed, "right", "hole")
    review(flawed, "overkill")
    assert labels_of(flawed) == {}
    review(flawed, "right")
    assert labels_of(flawed) == before == {0: "thread", 1: "thread", WHOLE_PICTURE: "thread"}


def test_an_escape_is_not_found_by_the_caption_s_word_nor_a_part_that_is_ok_after_all_by_the_flaw_s(
    records: Records,
) -> None:
    records.save([record(1, caption=Caption(words("normal")))]).result(20)
    for verdict, label, found in (
        ("escape", "", {}),
        ("escape", "hole", {WHOLE_PICTURE: "hole"}),
        ("right", "", {WHOLE_PICTURE: "normal"}),
    ):
        review(records, verdict, label)
        assert labels_of(records) == found


def test_words_and_a_review_that_two_services_write_at_once_are_both_heard(opened: Callable[[], Records]) -> None:
    one, other = opened(), opened()
    one.save([record(1, Decision.NOT_OK)]).result(20)
    with one.database.writing() as connection:
        ReviewWork(ID, Review("overkill", "Kim"), START)(connection)
        worded = other.caption(ID, caption("scratch"))
        wait([worded], timeout=0.3)
    worded.result(20)
    assert labels_of(one) == {}


def test_whatever_people_say_a_filter_finds_the_labels_that_a_report_shows(records: Records) -> None:
    right, two = Review("right", "Kim"), (region(0.3), region(0.5, x=90))
    dismissing = (Review("overkill", "Kim"), Review("overkill", "Kim", region=0), Review("overkill", "Kim", region=1))
    of_flaws = (right, Review("right", "Kim", "hole"), Review("right", "Kim", "cut", region=0), *dismissing)
    of_none = (right, Review("escape", "Kim"), Review("escape", "Kim", "hole"), Review("overkill", "Kim"))
    said = [*product(of_flaws, repeat=3), *product(of_none, repeat=3)]
    flawed = {"decision": Decision.NOT_OK, "regions": two, "descriptors": None, "caption": caption("thread", "stain")}
    unseen = {"decision": Decision.UNDECIDABLE}
    made = [record(number, **(flawed if number < len(of_flaws) ** 3 else unseen)) for number in range(len(said))]
    records.save(made).result(60)
    with records.database.writing() as connection:
        for item, each in ((item, each) for item, three in zip(made, said, strict=True) for each in three):
            ReviewWork(item.id, each, START)(connection)
    for row in gather_rows(records.database, Filters()):
        number = int(row.id, 16)
        shown = {flaw.label for flaw in known_flaws(row)} - {UNLABELLED}
        assert set(labels_of(records, number).values()) == shown, said[number]


@pytest.mark.parametrize("label", ["unknown", "Normal"])
def test_a_word_that_names_no_flaw_makes_no_case(flawed: Records, label: str) -> None:
    review(flawed, "right", "hole")
    outcome = review(flawed, "right", label)
    assert (outcome.case, outcome.accepted, list(flawed.cases())) == (None, None, [])
    assert flawed.accepted("polka-dot") == ("hole",)


def test_an_escape_without_a_region_is_recorded_without_a_case(records: Records) -> None:
    records.save([record(1)]).result(20)
    outcome = review(records, "escape", "hole")
    assert outcome.case is None
    assert labelled(records, "hole")


def test_accepted_labels_are_kept(flawed: Records, opened: Callable[[], Records]) -> None:
    other = opened()
    assert flawed.accepted("polka-dot") == ()
    review(flawed, "right", "hole")
    assert review(flawed, "right", "hole").accepted is None
    review(flawed, "right", "cut")
    assert set(flawed.accepted("polka-dot")) == {"hole", "cut"}
    assert flawed.accepted("blister-pack") == ()
    assert other.accepted("polka-dot") == ()
    other.refresh_accepted()
    assert set(other.accepted("polka-dot")) == set(opened().accepted("polka-dot")) == {"hole", "cut"}


def test_every_review_is_in_the_audit_and_a_refused_one_leaves_nothing(flawed: Records) -> None:
    case = review(flawed, "right", "hole").case
    with pytest.raises(InvalidParameter):
        review(flawed, "escape", "cut")
    with pytest.raises(InvalidParameter):
        review(flawed, "right", "cut", region=7)
    with pytest.raises(NoSuchRecord):
        flawed.review("nothing", Review("right", "Kim")).result(20)
    flawed.model_changed("Lee", "polka-dot", {"activated": 2}).result(20)
    said, activated = flawed.audit()
    assert (said.kind, said.subject, said.who, said.at) == ("review", ID, "Kim", START)
    assert (said.detail["label"], said.detail["case"], said.detail["decided"]) == ("hole", case.case_id, "not_ok")
    assert (activated.kind, activated.subject, activated.who) == ("model", "polka-dot", "Lee")
    assert activated.detail == {"activated": 2}
    assert flawed.audit(after=said.id) == flawed.audit(kind="model") == (activated,)
    assert flawed.audit(subject=ID, limit=1) == (said,)
    assert flawed.accepted("polka-dot") == ("hole",)
    assert len(flawed.inspections.get(ID).reviews) == 1


def test_what_goes_along_with_a_review_stands_or_falls_with_it(flawed: Records) -> None:
    def refused(outcome: ReviewOutcome) -> Callable[[sa.Connection], None]:
        def work(connection: sa.Connection) -> None:
            assert outcome.case is not None
            raise Conflict(outcome.case.label)

        return work

    with pytest.raises(Conflict, match="hole"):
        flawed.review(ID, Review("right", "Kim", "hole"), refused).result(20)
    assert (list(flawed.cases()), flawed.audit(), flawed.inspections.get(ID).reviews) == ([], (), ())
    assert flawed.accepted("polka-dot") == ()


@pytest.mark.parametrize(
    "wrong",
    [Review("right", " "), Review("right", "Kim", "x" * 61), Review("wrong", "Kim")],  # type: ignore[arg-type]
    ids=["nobody", "long", "word"],
)
def test_a_review_that_says_nothing_sound_is_refused(flawed: Records, wrong: Review) -> None:
    with pytest.raises(InvalidParameter):
        flawed.review(ID, wrong)


def test_a_picture_of_many_cases_is_read_whole(flawed: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.records.cases._AT_ONCE", 2)
    flawed.save([record(number, Decision.NOT_OK) for number in range(2, 6)]).result(20)
    for number in range(1, 6):
        flawed.review(f"{number:032x}", Review("right", "Kim", f"type {number}")).result(20)
    assert {case.label for case in flawed.cases("polka-dot")} == {f"type {number}" for number in range(1, 6)}
    assert list(flawed.cases("blister-pack")) == []
