"""What one service's reviews change in the cases, as another service on the same database sees it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from service.captions.captioner import Captioner
from service.captions.descriptor import FIGURES, MAKING
from service.captions.follower import Follower
from service.captions.memory import Memory
from service.captions.products import Products
from service.records.entities import Review, StoredCase
from service.records.store import Records
from service.types import Decision
from tests.unit.records.making import record, region

ID = f"{1:032x}"


@pytest.fixture
def here(records: Records) -> Records:
    """One inspection of two flaws."""
    two = np.eye(2, FIGURES + 4, 1, dtype=np.float32)
    two[:, 0] = MAKING
    flaws = (region(0.3), region(0.5, x=90))
    records.save([record(1, Decision.NOT_OK, regions=flaws, descriptors=two)]).result(20)
    return records


def follower(records: Records) -> tuple[Follower, Memory]:
    memory = Memory()
    return Follower(records, Captioner(Products({}), memory, None, records.accepted)), memory


def say(records: Records, verdict: str = "right", label: str = "", region: int | None = None) -> str | None:
    review = Review(verdict, "Kim", label, region=region)  # type: ignore[arg-type]
    return records.review(ID, review).result(20).review.case_id


def test_another_service_s_reviews_are_learned_and_withdrawn(here: Records, opened: Callable[[], Records]) -> None:
    say(here, "right", "hole", 0)
    there = opened()
    following, memory = follower(there)
    assert len(memory) == 1
    first = say(here, "right", "thread", 1)
    second = say(here, "right", "needle", 1)  # in place of it, before anybody looked
    assert first is not None
    assert second is not None
    assert there.accepted("polka-dot") == ("hole",)
    following.catch_up()
    assert len(memory) == 2
    assert memory.knows(second)
    assert not memory.knows(first)
    assert set(there.accepted("polka-dot")) == {"hole", "thread", "needle"}
    say(here, "overkill")
    following.catch_up()
    assert len(memory) == 0


def test_who_follows_itself_learns_each_case_once(here: Records) -> None:
    following, memory = follower(here)
    case_id = say(here, "right", "hole", 0)
    following.catch_up()
    following.catch_up()
    assert len(memory) == 1
    assert case_id is not None
    assert memory.knows(case_id)


def test_nothing_changed_is_nothing_read(here: Records) -> None:
    say(here, "right", "hole", 0)
    mark = here.case_mark()
    here.model_changed("Kim", "polka-dot", {"version": 2}).result(20)
    assert here.case_changes(mark).cases == ()
    assert here.case_changes(mark).mark == mark


def test_one_case_of_an_older_release_is_left_out_and_the_others_are_taken_in_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Taking them in one by one would fit their calibration anew each time: a start of minutes."""
    descriptors = np.eye(12, FIGURES + 14, 1, dtype=np.float32)
    descriptors[:, 0] = MAKING
    descriptors[7, 0] = MAKING - 1
    cases = [
        StoredCase(f"c{n}", f"{n:032x}", "polka-dot", "a" * 64, "hole", "", "", descriptor)
        for n, descriptor in enumerate(descriptors)
    ]
    memory, taken = Memory(), []
    add = memory.add
    monkeypatch.setattr(memory, "add", lambda *given: (taken.append(len(given)), add(*given)))
    Captioner(Products({}), memory, None, lambda _: ()).learn(cases)
    assert taken == [11]
    assert len(memory) == 11
    assert not memory.knows("c7")
    assert "1 cases are not remembered, the first because: case c7" in caplog.text
