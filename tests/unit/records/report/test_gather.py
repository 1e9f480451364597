from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from service.errors import InvalidParameter
from service.records.database import Database, open_database
from service.records.entities import Caption, Record
from service.records.report.data import UNLABELLED, Review
from service.records.report.gather import gather
from service.records.rows import caption_row
from service.records.schema import classifications
from service.types import Citation, Decision, Severity
from tests.unit.records.report.records import HOLE, STAIN, bad, record, region, say, write
from tests.unit.records.report.rows import DAY, START


@pytest.fixture
def database(tmp_path: Path, database_url: str | None) -> Iterator[Database]:
    opened = open_database(tmp_path, database_url)
    yield opened
    opened.close()


def test_a_record_becomes_a_row_with_its_words(database: Database) -> None:
    write(database, bad(1, lot="L1", serial="S1", station="line 2", picture_stored=True))
    (row,) = gather(database, DAY).inspections
    assert (row.id, row.created_at, row.decision) == (f"{1:032x}", START + timedelta(minutes=1), Decision.NOT_OK)
    assert (row.product, row.lot, row.serial, row.station) == ("polka-dot", "L1", "S1", "line 2")
    assert (row.model, row.model_version, row.sha256, row.picture_stored) == ("polka-dot", 3, f"{1:064x}", True)
    assert (row.description, row.review) == ("Dark spot near the centre", None)
    hole, stain = row.flaws
    assert (hole.box, hole.margin, hole.label, hole.severity) == ((10, 20, 30, 40), 2.0, "hole", Severity.CRITICAL)
    assert (hole.causes, hole.action, hole.source) == (("Needle broke",), "Change the needle", "memory")
    assert hole.similar == ("e" * 32,)
    assert (stain.label, stain.margin) == ("stain", pytest.approx(1.5))


def test_a_record_without_words_has_unlabelled_flaws(database: Database) -> None:
    write(database, record(1, Decision.NOT_OK, regions=(region(10),)))
    data = gather(database, DAY)
    assert [kind.label for kind in data.flaw_types] == [UNLABELLED]


def test_the_span_holds_its_beginning_and_not_its_end(database: Database) -> None:
    end = DAY.end - DAY.start
    write(database, record(0), record(int(end.total_seconds() // 60)), record(-1), record(1439))
    assert [row.id for row in gather(database, DAY).inspections] == [f"{0:032x}", f"{1439:032x}"]


def test_product_and_lot_narrow_the_scope(database: Database) -> None:
    write(database, record(1, lot="a"), record(2, lot="b"), bad(3, product="metal", lot="a"))
    say(database, 3, "overkill")
    assert gather(database, DAY).counts.total == 3
    assert gather(database, DAY).counts.overkill == 1
    assert gather(database, replace(DAY, product="polka-dot")).counts.total == 2
    narrow = gather(database, replace(DAY, product="polka-dot", lot="a"))
    assert [row.id for row in narrow.inspections] == [f"{1:032x}"]
    assert narrow.counts.overkill == 0


def test_an_empty_database_gives_an_empty_report(database: Database) -> None:
    data = gather(database, DAY)
    assert (data.counts.total, data.yield_.value, data.top_flaws) == (0, None, ())


def test_pictures_that_could_not_be_judged_have_no_score(database: Database) -> None:
    write(database, record(1, Decision.UNDECIDABLE, score=None, p_value=None, reasons=("too dark",)))
    (row,) = gather(database, DAY).inspections
    assert (row.score, row.p_value, row.reasons) == (None, None, ("too dark",))


def test_a_review_of_a_region_speaks_of_that_region(database: Database) -> None:
    write(database, bad(1))
    case = say(database, 1, "right", region=1, label="oil", cause="Guide leaks", action="Seal the guide")
    (row,) = gather(database, DAY).inspections
    hole, oil = row.flaws
    assert (hole.label, hole.cause_confirmed) == ("hole", False)
    assert (oil.label, oil.causes, oil.action, oil.source) == ("oil", ("Guide leaks",), "Seal the guide", "review")
    assert (oil.cause_confirmed, oil.case_id) == (True, case)


def test_the_last_word_of_each_kind_holds_and_is_of_the_strongest_region(database: Database) -> None:
    write(database, bad(1))
    say(database, 1, "right", label="hole", cause="Needle bent")
    case = say(database, 1, "right", label="tear")
    (row,) = gather(database, DAY).inspections
    assert row.review == Review("right", "tear", "Needle bent")
    hole, stain = row.flaws
    assert (hole.label, hole.causes, hole.case_id) == ("tear", ("Needle bent",), case)
    assert (stain.label, stain.source) == ("stain", "rules")


def test_overkill_is_of_the_region_named_or_of_all(database: Database) -> None:
    write(database, bad(1), bad(2), bad(3))
    say(database, 1, "overkill", region=0)
    say(database, 2, "overkill")
    say(database, 3, "overkill", label="hole")
    say(database, 3, "right")
    data = gather(database, DAY)
    assert [[flaw.overkill for flaw in row.flaws] for row in data.inspections] == [
        [True, False],
        [True, True],
        [False, False],
    ]
    assert {kind.label: kind.count for kind in data.flaw_types} == {"stain": 2, "hole": 1}
    assert (data.counts.overkill, data.counts.confirmed) == (1, 1)  # the first has a flaw left
    assert data.inspections[0].review == Review(None)


def test_overkill_takes_back_what_was_said_before(database: Database) -> None:
    write(database, bad(1), bad(2))
    for number, place in ((1, None), (2, 0)):
        say(database, number, "right", region=1, label="oil", cause="Guide leaks")
        say(database, number, "right", label="tear", cause="Needle bent", action="Straighten it")
        say(database, number, "overkill", region=place)
    whole, one = gather(database, DAY).inspections
    assert whole.review == Review("overkill")
    assert one.review == Review("right", "oil", "Guide leaks")  # what was said of the other region
    hole, oil = one.flaws
    assert (hole.label, hole.cause_confirmed, hole.action_confirmed, hole.case_id) == ("hole", False, False, "")
    assert (oil.label, oil.cause_confirmed) == ("oil", True)
    assert not any(flaw.cause_confirmed or flaw.case_id for flaw in whole.flaws)
    say(database, 1, "right")  # and what was taken back stays so
    assert gather(database, DAY).inspections[0].review == Review("right")


def test_causes_come_with_the_cases_of_their_reviews(database: Database) -> None:
    write(database, bad(1), bad(2), bad(3))
    case = say(database, 2, "right", region=0, label="hole", cause="needle broke")
    (cause,) = gather(database, DAY).causes
    assert (cause.text, cause.count, cause.confirmed) == ("Needle broke", 3, 1)
    assert (cause.case_ids, cause.similar_ids) == ((case,), ("e" * 32,))


def test_causes_come_with_the_cases_that_captions_cite(database: Database) -> None:
    def cited(number: int) -> Record:
        citation = Citation("Needle broke", f"c{number}", f"i{number}")
        return replace(bad(number), caption=Caption(HOLE, (replace(HOLE, cited=(citation,)), STAIN)))

    write(database, cited(1), cited(2), bad(3))
    old = caption_row(f"{3:032x}", Caption(HOLE, (HOLE, STAIN)), START)
    for words in old["regions"]:
        del words["cited"], words["suggested_severity"]  # as records were before there were such
    with database.writing() as connection:
        connection.execute(
            classifications.update()
            .where(classifications.c.inspection_id == f"{3:032x}")
            .values(regions=old["regions"])
        )
    (cause,) = gather(database, DAY).causes
    assert (cause.count, cause.case_ids, cause.cited_ids) == (3, ("c1", "c2"), ("i1", "i2"))


def test_more_inspections_than_can_be_held_are_refused(database: Database) -> None:
    write(database, *(record(number) for number in range(4)))
    assert gather(database, DAY, most=4).counts.total == 4
    with pytest.raises(InvalidParameter, match="more than 3 inspections"):
        gather(database, DAY, most=3)
