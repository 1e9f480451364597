"""Whatever a model writes, what is taken from it keeps the caption contract."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.captions.answer import LlmCaption, LlmUnavailable, Reason
from service.captions.answer_form import answer_schema
from service.captions.language import load_languages
from service.captions.reading import Reading, cut_words, read_answer
from service.types import Severity
from tests.llm_server import answer_json, entry
from tests.llm_tasks import llm_task

TASK = llm_task(2)
LANGUAGES = load_languages()


def read(content: str) -> Reading:
    return read_answer(content, TASK, LANGUAGES)


def first(**changed: Any) -> tuple[LlmCaption, Reading]:
    reading = read(answer_json(2, **changed))
    assert reading.regions[0] is not None
    return reading.regions[0], reading


def keeps_the_contract(caption: LlmCaption) -> bool:
    one_line = not any(set(text) & set("\n\r\t\x00") for text in (caption.label, caption.description, caption.action))
    in_range = caption.confidence is None or 0 <= caption.confidence <= 1
    return (
        one_line
        and in_range
        and 1 <= len(caption.description.split()) <= 10
        and len(caption.description) <= 120
        and caption.label != ""
        and caption.severity is not Severity.NONE
        and len(caption.causes) <= 3
        and set(caption.cited_case_ids) <= {"case-7"}
        and caption.is_new_type == (caption.label not in ("thread", "missing-dot", "unknown"))
        and "this is normal" not in caption.description.casefold()
    )


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=200))
ids = st.lists(st.sampled_from(["case-7", "case-8", 7]))
entries = st.fixed_dictionaries(
    {},
    optional={
        "region": st.one_of(st.integers(-2, 4), values),
        "label": st.one_of(
            st.sampled_from(["thread", "Missing Dot", "unknown", "normal", "burn mark"]), st.text(), values
        ),
        "description": st.one_of(
            st.text(), st.lists(st.sampled_from(["the", "thread", "normal", "is", "this"])).map(" ".join)
        ),
        "severity": st.one_of(st.sampled_from(["MAJOR", "none", "fatal"]), values),
        "causes": st.one_of(values, st.lists(st.fixed_dictionaries({"text": st.text(), "case_ids": ids}), max_size=5)),
        "action": values,
        "confidence": values,
        "is_new_type": values,
    },
)
answers = st.fixed_dictionaries(
    {}, optional={"picture": st.one_of(entries, values), "regions": st.lists(entries, max_size=4)}
)


@given(st.one_of(st.text(), answers.map(json.dumps), answers.map(lambda answer: f"```json\n{json.dumps(answer)}\n```")))
def test_any_answer_is_refused_or_keeps_the_contract(content: str) -> None:
    try:
        reading = read(content)
    except LlmUnavailable:
        return
    assert len(reading.regions) == 2
    for caption in (reading.picture, *reading.regions):
        assert caption is None or keeps_the_contract(caption)


@pytest.mark.parametrize(
    "content", ["", "  ", "null", "[]", "{", '{"picture": null}', '{"regions": {}}', '{"regions": [3]}', "{}"]
)
def test_what_holds_no_words_is_no_answer(content: str) -> None:
    with pytest.raises(LlmUnavailable) as failed:
        read(content)
    assert failed.value.reason in {Reason.EMPTY, Reason.INVALID_ANSWER}


def test_the_form_asked_for_and_the_form_read_are_one() -> None:
    schema = answer_schema()["properties"]
    assert set(schema["picture"]["properties"]) == set(entry())
    assert set(schema["regions"]["items"]["properties"]) == {*entry(), "region"}
    full = first()[0]
    assert None not in [full.severity, full.confidence]


@pytest.mark.parametrize("label", ["missing-dot", "Missing Dot", " MISSING_DOT. "])
def test_labels_are_found_in_the_taxonomy_however_they_are_spelled(label: str) -> None:
    caption, _ = first(label=label, is_new_type=True)
    assert (caption.label, caption.is_new_type) == ("missing-dot", False)


def test_a_new_label_is_proposed() -> None:
    caption, _ = first(label="Burn mark", is_new_type=False)
    assert (caption.label, caption.is_new_type) == ("burn mark", True)


@pytest.mark.parametrize("label", [None, "", "unknown"])
def test_no_label_is_unknown(label: str | None) -> None:
    caption, _ = first(label=label)
    assert (caption.label, caption.is_new_type) == ("unknown", False)


@pytest.mark.parametrize(
    "changed",
    [
        {"label": "normal"},
        {"label": "No defect"},
        {"description": "This is normal."},
        {"description": "It looks fine"},
        {"description": "There is no visible defect here"},
        {"description": "No flaw, the surface is even"},
        {"description": "Normal fabric texture."},
    ],
)
def test_normal_contradicts_the_verdict(changed: dict[str, str]) -> None:
    reading = read(json.dumps({"picture": entry(), "regions": [entry(**changed), entry()]}))
    assert reading.regions[0] is None
    assert reading.regions[1] is not None
    assert reading.flags == ("contradicts_verdict:region-1",)


def test_words_that_only_mention_normal_do_not() -> None:
    for description in (
        "Dot is larger than a normal dot",
        "Normal weave interrupted by a black thread",
        "Dark thread, no visible defect elsewhere",
        "It is fine black thread across the upper left",
    ):
        assert first(description=description)[1].flags == ()


@pytest.mark.parametrize(
    ("severity", "expected"),
    [("Critical", Severity.CRITICAL), ("none", None), ("catastrophic", None), (None, None)],
)
def test_severity_is_a_suggestion_among_three(severity: str | None, expected: Severity | None) -> None:
    caption, reading = first(severity=severity)
    assert caption.severity is expected
    assert ("severity_dropped:region-1" in reading.flags) == (expected is None and severity is not None)


@pytest.mark.parametrize("confidence", [-0.1, 85, 1e400, float("nan")])
def test_an_impossible_confidence_is_dropped(confidence: float) -> None:
    caption, reading = first(confidence=confidence)
    assert caption.confidence is None
    assert "confidence_dropped:region-1" in reading.flags


def test_a_flat_object_counts_for_picture_and_region() -> None:
    reading = read_answer(json.dumps(entry()), llm_task(1), LANGUAGES)
    assert reading.picture == reading.regions[0] is not None


def test_hidden_characters_are_taken_out() -> None:
    caption, _ = first(description='"Black\u202e thread\x00\n lies\u200b here"')
    assert caption.description == "Black thread lies here"


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("one two three", "one two three"),
        ("1 2 3 4 5 6 7 8 9 10", "1 2 3 4 5 6 7 8 9 10"),
        ("1 2 3 4 5 6 7 8 across the part", "1 2 3 4 5 6 7 8"),
        ("x" * 200, "x" * 120),
        ("the of and " * 5, "the"),
    ],
)
def test_cutting(text: str, cut: str) -> None:
    assert cut_words(text) == cut
