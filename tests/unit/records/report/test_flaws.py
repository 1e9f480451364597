from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.records.report.data import UNLABELLED, Flaw, Review
from service.records.report.flaws import actions, known_flaws, pareto, recurring_causes, reviewed, top_flaws
from service.types import Citation, Decision, Severity
from tests.unit.records.report.rows import flawed, row

BOX = (10, 20, 30, 40)
HOLE = Flaw(BOX, 2.0, "hole", Severity.CRITICAL, causes=("Needle broke",), action="Change the needle", similar=("old",))
STAIN = Flaw(BOX, 3.0, "stain", Severity.MINOR, causes=("Oil",), action="Wipe the rail")


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=4), max_size=60))
def test_shares_add_up_and_counts_fall(pictures: list[list[str]]) -> None:
    rows = [flawed(at, *(Flaw(BOX, 2.0, label) for label in labels)) for at, labels in enumerate(pictures)]
    types = pareto(rows)
    counts = [kind.count for kind in types]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == sum(map(len, pictures))
    if types:
        assert sum(kind.share for kind in types) == pytest.approx(1)
        assert types[-1].cumulative == 1
        assert all(kind.inspections <= kind.count for kind in types)


def test_flaws_of_one_type_in_one_picture_count_it_once() -> None:
    (kind,) = pareto([flawed(0, HOLE, HOLE)])
    assert (kind.count, kind.inspections, kind.worst) == (2, 1, Severity.CRITICAL)


def test_overkill_is_no_flaw_and_an_escape_is_one() -> None:
    assert known_flaws(flawed(0, replace(HOLE, overkill=True), STAIN)) == (STAIN,)
    (missed,) = known_flaws(row(1, review=Review("escape", "scratch", "Dropped", "Pad the chute")))
    assert (missed.box, missed.label, missed.causes, missed.source) == (None, "scratch", ("Dropped",), "review")
    (unnamed,) = known_flaws(row(1, review=Review("escape")))
    assert unnamed.label == UNLABELLED
    assert known_flaws(row(2)) == ()


def test_the_worst_flaws_come_first_one_a_picture() -> None:
    rows = [flawed(0, STAIN), flawed(1, STAIN, HOLE), flawed(2, HOLE), row(3), row(4, Decision.REVIEW, flaws=(STAIN,))]
    top = top_flaws(rows, 3)
    assert [(flaw.inspection_id[-1], flaw.flaw.label) for flaw in top] == [("1", "hole"), ("2", "hole"), ("0", "stain")]


def test_a_cause_recurs_from_the_second_picture_on() -> None:
    assert recurring_causes([flawed(0, HOLE, HOLE)]) == ()
    again = Flaw(BOX, 2.0, "tear", causes=("  needle BROKE.",))
    said = reviewed(HOLE, "hole", "Needle broke", "", "c9")
    (cause,) = recurring_causes([flawed(0, HOLE), flawed(1, again), flawed(2, said), flawed(3, STAIN)])
    assert (cause.text, cause.count, cause.confirmed) == ("Needle broke", 3, 1)
    assert cause.labels == ("hole", "tear")
    assert (cause.case_ids, cause.similar_ids) == (("c9",), ("old",))
    assert [found[-1] for found in cause.inspection_ids] == ["0", "1", "2"]


def test_one_cause_with_other_cited_cases_is_one() -> None:
    def citing(text: str, *cases: str) -> Flaw:
        cited = tuple(Citation(text, case, f"of {case}") for case in cases)
        return replace(HOLE, causes=(text, "Oil"), cited=(*cited, Citation("Oil", "c7", "of c7")))

    rows = [flawed(0, citing("Needle broke", "c1")), flawed(1, citing("needle broke.", "c2", "c1"))]
    said = reviewed(citing("Needle broke", "c3"), "hole", "Needle broke", "", "c9")
    needle, oil = recurring_causes([*rows, flawed(2, said)])
    assert (needle.text, needle.count, needle.case_ids) == ("Needle broke", 3, ("c9", "c1", "c2", "c3"))
    assert needle.cited_ids == ("of c1", "of c2", "of c3")
    assert (oil.count, oil.case_ids, oil.cited_ids) == (2, ("c7",), ("of c7",))


def test_confirmed_causes_go_before_frequent_ones() -> None:
    said = reviewed(HOLE, "", "Needle broke", "")
    rows = [*(flawed(at, STAIN) for at in range(5)), flawed(5, HOLE), flawed(6, said)]
    assert [cause.text for cause in recurring_causes(rows)] == ["Needle broke", "Oil"]


def test_actions_of_severe_flaws_come_first() -> None:
    told = actions([*(flawed(at, STAIN) for at in range(5)), flawed(5, HOLE)])
    assert [(action.text, action.count, action.worst) for action in told] == [
        ("Change the needle", 1, Severity.CRITICAL),
        ("Wipe the rail", 5, Severity.MINOR),
    ]


def test_a_persons_words_go_before_a_captions() -> None:
    flaw = reviewed(HOLE, "tear", "Sharp edge", "", "c1")
    assert (flaw.label, flaw.causes, flaw.action, flaw.source) == ("tear", ("Sharp edge",), HOLE.action, "review")
    assert (flaw.cause_confirmed, flaw.action_confirmed, flaw.case_id) == (True, False, "c1")
    assert reviewed(HOLE, "", "", "") == HOLE
