"""The memory of reviewed flaws."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.captions.calibration import calibrate
from service.captions.descriptor import FIGURES, MAKING, Surface, case_descriptor
from service.captions.memory import Memory, Recall
from service.captions.neighbours import bank, embed, extended, fit_metric, vote
from service.captions.products import UNKNOWN
from service.records.entities import StoredCase
from service.types import Citation

TEACHER, OTHER_TEACHER = "a" * 64, "b" * 64
CHANNELS = 12
LABELS = ("scratch", "dent", "stain")


def descriptor(label: str, rng: np.random.Generator, spread: float = 0.15) -> NDArray[np.float32]:
    """A flaw of that label: each label lies along an axis of its own."""
    features = np.zeros(CHANNELS, np.float32)
    features[(*LABELS, "rust").index(label)] = 1
    figures = np.full(FIGURES, 0.2 * (*LABELS, "rust").index(label), np.float32)
    return case_descriptor(
        features + rng.normal(0, spread, CHANNELS).astype(np.float32),
        figures + rng.normal(0, spread, FIGURES).astype(np.float32),
    )


def case(number: int, label: str, product: str = "plate", teacher: str = TEACHER, **fields: str) -> StoredCase:
    rng = np.random.default_rng(number)
    told = {"cause": f"cause of {label}", "action": f"action for {label}", **fields}
    return StoredCase(f"c{number}", f"i{number}", product, teacher, label, descriptor=descriptor(label, rng), **told)


def cases(each: int, labels: tuple[str, ...] = LABELS) -> list[StoredCase]:
    return [case(100 * place + number, label) for place, label in enumerate(labels) for number in range(each)]


def asked(memory: Memory, label: str, seed: int = 9999) -> Recall:
    found = memory.recall("plate", TEACHER, descriptor(label, np.random.default_rng(seed)))
    assert found is not None
    return found


@pytest.mark.parametrize("label", LABELS)
def test_reviewed_cases_name_a_flaw_like_them_with_cause_action_and_neighbours(label: str) -> None:
    found = asked(Memory(cases(15)), label)
    assert (found.label, found.guess, found.sure) == (label, label, True)
    assert (found.causes, found.action) == ((f"cause of {label}",), f"action for {label}")
    assert [item.label for item in found.similar] == [label] * 5
    assert [item.distance for item in found.cases] == [item.distance for item in found.similar]
    assert all(0 <= item.distance <= 2 for item in found.similar)
    assert {item.case_id for item in found.cases} <= {item.case_id for item in cases(15)}


def test_a_flaw_far_from_all_cases_is_unknown_and_not_sure() -> None:
    found = asked(Memory(cases(15)), "rust")
    assert found.label == UNKNOWN
    assert found.guess in LABELS
    assert (found.sure, found.causes, found.action) == (False, (), "")
    assert len(found.similar) == 5


def test_causes_cite_the_cases_that_name_them() -> None:
    causes = ("needle bent", "needle worn", "")
    known = {item.case_id: replace(item, cause=causes[place % 3]) for place, item in enumerate(cases(15))}
    found = asked(Memory(known.values()), "scratch")
    naming = [known[item.case_id] for item in found.cases if known[item.case_id].cause]
    assert found.cited == tuple(Citation(item.cause, item.case_id, item.inspection_id) for item in naming)
    assert 0 < len(found.cited) < 5
    assert {each.cause for each in found.cited} == set(found.causes)


def recalled(spread: float, labels: tuple[str, ...]) -> list[Recall]:
    """What memories of `LABELS` say of further flaws of `labels`; the flaws of a label differ by `spread`."""
    found = []
    for seed in range(5):
        memory = Memory(
            replace(item, descriptor=descriptor(item.label, np.random.default_rng((seed, number)), spread))
            for number, item in enumerate(cases(15))
        )
        queries = (descriptor(label, np.random.default_rng((9, n)), spread) for label in labels for n in range(40))
        found += [memory.recall("plate", TEACHER, query) for query in queries]
    return [item for item in found if item is not None]


def test_a_label_never_reviewed_is_not_answered_alone_even_where_labels_are_hardly_apart() -> None:
    # leaving inspections out alone tells nothing of it: then every other one is answered
    answered = float(np.mean([found.sure for found in recalled(0.5, ("rust",))]))
    assert answered <= 0.2


def test_known_labels_are_still_answered_alone_and_rightly_where_they_are_apart() -> None:
    found = recalled(0.25, LABELS)
    right = [item.label == label for item, label in zip(found, 5 * np.repeat(LABELS, 40).tolist(), strict=True)]
    sure = np.array([item.sure for item in found])
    assert sure.mean() >= 0.7
    assert np.array(right)[sure].mean() >= 0.97


def test_one_label_alone_is_answered_near_its_cases_only() -> None:
    memory = Memory(cases(15, ("dent",)))
    near = [asked(memory, "dent", seed).sure for seed in range(5000, 5030)]
    far = [asked(memory, "rust", seed).sure for seed in range(5000, 5030)]
    assert np.mean(near) >= 0.6
    assert not any(far)


def test_a_vote_is_the_more_doubtful_the_further_and_the_less_of_one_mind_it_is() -> None:
    rows = np.array([[0, 0], [0, 1], [9, 0], [9, 1]], np.float32)
    known = bank(rows, np.array([0, 0, 1, 1]), 2)
    at = [vote(known, np.array(place, np.float32)) for place in ([0, 0.5], [-2, 0.5], [2, 0.5], [4.4, 0.5])]
    assert [told.winner for told in at] == [0, 0, 0, 0]
    assert at[1].own == at[2].own == pytest.approx(4.25)
    assert at[0].doubt < at[1].doubt < at[2].doubt < at[3].doubt
    won_by_its_mean = vote(known, np.array([-2, 0.5], np.float32), most=1)
    assert won_by_its_mean.own == pytest.approx(4.25)


def test_most_flaws_of_a_known_label_are_not_called_unknown() -> None:
    memory = Memory(cases(20))
    answers = [asked(memory, label, seed).label == label for label in LABELS for seed in range(5000, 5030)]
    assert np.mean(answers) >= 0.7


def test_an_empty_memory_and_other_products_and_teachers_say_nothing() -> None:
    memory = Memory([case(1, "dent", product="gear"), case(2, "dent", teacher=OTHER_TEACHER)])
    assert memory.recall("plate", TEACHER, descriptor("dent", np.random.default_rng(0))) is None
    assert Memory().recall("plate", TEACHER, np.zeros(3, np.float32)) is None


def test_descriptors_of_different_teachers_may_differ_in_length() -> None:
    longer = replace(
        case(2, "dent", teacher=OTHER_TEACHER), descriptor=np.full(1 + CHANNELS + FIGURES + 5, MAKING, np.float32)
    )
    memory = Memory([*cases(3), longer])
    assert asked(memory, "dent").guess == "dent"
    with pytest.raises(ValueError, match="teacher's are"):
        memory.recall("plate", OTHER_TEACHER, descriptor("dent", np.random.default_rng(0)))


@pytest.mark.parametrize(
    "broken",
    [
        np.ones(FIGURES, np.float32),
        np.full(1 + CHANNELS + FIGURES, np.nan, np.float32),
        np.ones((1, 30), np.float32),
        np.full(1 + CHANNELS + FIGURES, MAKING - 1, np.float32),  # an older release's
    ],
)
def test_a_descriptor_that_is_none_is_refused_and_changes_nothing(broken: NDArray[np.float32]) -> None:
    memory = Memory(cases(3))
    with pytest.raises(ValueError, match="descriptor"):
        memory.add(case(7, "rust", product="gear"), replace(case(8, "rust"), descriptor=broken))
    assert len(memory) == 9
    with pytest.raises(ValueError, match="descriptor"):
        memory.add(replace(case(8, "rust"), descriptor=np.full(CHANNELS + FIGURES + 2, MAKING, np.float32)))
    assert len(memory) == 9


def test_one_review_teaches_a_new_label_and_removing_it_forgets() -> None:
    memory = Memory(cases(15))
    memory.add(case(900, "rust"), case(901, "rust"))
    assert asked(memory, "rust").guess == "rust"
    assert memory.remove("c900")
    assert memory.remove("c901")
    assert not memory.remove("c901")
    assert asked(memory, "rust").label == UNKNOWN
    for item in cases(15):
        memory.remove(item.case_id)
    assert len(memory) == 0
    assert memory.recall("plate", TEACHER, descriptor("dent", np.random.default_rng(0))) is None


def test_a_case_reviewed_again_takes_the_place_of_its_first() -> None:
    memory = Memory(cases(2))
    memory.add(replace(case(0, "scratch"), cause="loose jaw"))
    memory.add(case(1, "scratch", product="gear"))
    assert len(memory) == 6
    assert "loose jaw" in asked(memory, "scratch").causes
    assert memory.recall("gear", TEACHER, descriptor("dent", np.random.default_rng(0))) is not None
    assert all(item.case_id != "c1" for item in asked(memory, "scratch").cases)


def test_unknown_is_no_lesson() -> None:
    memory = Memory([replace(case(1, "dent"), label=UNKNOWN)])
    assert len(memory) == 0


def test_one_case_alone_names_only_itself() -> None:
    memory = Memory([case(1, "dent")])
    assert asked(memory, "dent").label == UNKNOWN
    again = memory.recall("plate", TEACHER, case(1, "dent").descriptor)
    assert again is not None
    assert (again.label, again.sure) == ("dent", False)


def test_few_reviews_promise_little() -> None:
    few, many = asked(Memory(cases(2)), "dent"), asked(Memory(cases(20)), "dent")
    assert few.confidence < many.confidence <= 1


def test_labels_given_at_random_get_no_confidence() -> None:
    rng = np.random.default_rng(0)
    noise = [replace(item, label=str(rng.choice(LABELS))) for item in cases(25)]
    assert all(not asked(Memory(noise), label).sure for label in LABELS)


def test_regions_of_one_inspection_do_not_vouch_for_each_other() -> None:
    beside = np.float32(np.arange(1 + CHANNELS + FIGURES) > 0)
    twins = [
        replace(item, case_id=f"{item.case_id}-{copy}", descriptor=item.descriptor + 1e-4 * copy * beside)
        for item in cases(1)
        for copy in range(10)
    ]
    _, labels = np.unique([item.label for item in twins], return_inverse=True)
    _, groups = np.unique([item.inspection_id for item in twins], return_inverse=True)
    found = calibrate(embed(np.stack([item.descriptor for item in twins])), labels, groups, 3)
    assert len(found.doubts) == 0
    assert (asked(Memory(twins), "dent").confidence, asked(Memory(twins), "dent").sure) == (0.5, False)


@given(st.permutations(range(12)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_cases_does_not_matter(order: list[int]) -> None:
    all_cases = cases(4)
    one, other = asked(Memory(all_cases), "stain"), asked(Memory([all_cases[place] for place in order]), "stain")
    assert (one.label, one.guess, one.similar) == (other.label, other.guess, other.similar)


def test_adding_one_by_one_comes_to_the_same_as_loading() -> None:
    grown = Memory()
    for item in cases(10):
        grown.add(item)
    for label in (*LABELS, "rust"):
        assert asked(grown, label).guess == asked(Memory(cases(10)), label).guess


def test_beyond_the_refitting_size_cases_are_still_found_at_once() -> None:
    memory = Memory(cases(80))
    added = case(5000, "dent", cause="new cause")
    memory.add(added)
    found = memory.recall("plate", TEACHER, added.descriptor)
    assert found is not None
    assert found.cases[0].case_id == "c5000"
    assert found.cases[0].distance == pytest.approx(0, abs=1e-6)
    assert found.causes[0] == "new cause"


def test_readers_are_not_disturbed_by_a_writer() -> None:
    memory = Memory(cases(5))
    faults: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for label in LABELS:
                found = asked(memory, label)
                if found.guess != label:
                    faults.append(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(12):
        memory.add(case(3000 + number, LABELS[number % 3]))
        memory.remove(f"c{3000 + number - 5}")
    done.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert len(memory) == 15 + 5


def test_nearest_is_exact() -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(500, 20)).astype(np.float32)
    labels = rng.integers(0, 4, 500)
    query = rng.normal(size=20).astype(np.float32)
    found = vote(bank(rows, labels, 4), query, most=7)
    apart = ((rows - query) ** 2).sum(axis=1)
    assert list(found.nearest) == list(np.argsort(apart)[:7])
    np.testing.assert_allclose(found.distances, np.sort(apart)[:7], rtol=1e-4)
    assert found.shares.sum() == pytest.approx(1)


def test_a_bank_extended_is_the_bank_of_all() -> None:
    rng = np.random.default_rng(5)
    rows, labels = rng.normal(size=(50, 6)).astype(np.float32), rng.integers(0, 4, 50)
    grown, whole = extended(bank(rows[:40], labels[:40], 4), rows[40:], labels[40:]), bank(rows, labels, 4)
    for name in ("rows", "squares", "labels", "means", "counts"):
        np.testing.assert_allclose(getattr(grown, name), getattr(whole, name), rtol=1e-5, atol=1e-6)


def test_the_metric_forgives_what_differs_within_labels() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(0, (5, 0.2), (60, 2)).astype(np.float32)
    labels = np.repeat([0, 1], 30)
    rows[30:, 1] += 2
    metric = fit_metric(rows, labels)
    along, across = metric(np.eye(2, dtype=np.float32))
    assert np.linalg.norm(across) > 1.3 * np.linalg.norm(along)
    np.testing.assert_array_equal(fit_metric(rows[[0, 30]], labels[[0, 30]]).turn, np.eye(2))


def test_figures_of_another_length_make_no_descriptor() -> None:
    with pytest.raises(ValueError, match="figures"):
        case_descriptor(np.zeros(4, np.float32), np.zeros(FIGURES - 1, np.float32))


def test_a_descriptor_does_not_change_with_the_picture_s_exposure() -> None:
    rng = np.random.default_rng(0)
    around, inside = rng.normal(0, 1, (500, 64)), rng.normal(1, 2, (40, 64))
    one = Surface(around.astype(np.float32)).features(inside.astype(np.float32))
    level, gain = rng.normal(0, 3, 64), 1.7
    other = Surface((level + gain * around).astype(np.float32)).features((level + gain * inside).astype(np.float32))
    np.testing.assert_allclose(one, other, atol=0.02)
    further = Surface(around.astype(np.float32)).features(rng.normal(-1, 1, (40, 64)).astype(np.float32))
    assert np.linalg.norm(one - further) > 20 * np.linalg.norm(one - other)


def test_a_region_of_one_cell_on_an_even_surface_has_a_finite_descriptor() -> None:
    found = Surface(np.zeros((3, 8), np.float16)).features(np.ones((1, 8), np.float16))
    assert np.isfinite(found).all()
    assert np.isfinite(Surface(np.zeros((1, 8), np.float16)).features(np.zeros((1, 8), np.float16))).all()
