from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.records.report.data import Flaw, Review
from service.records.report.summary import summarise
from service.records.report.table import SCHEMA_VERSION, facts_json, guarded, report_csv, report_json
from service.types import Decision, Severity
from tests.unit.records.report.rows import DAY, a_day, flawed, row


def test_json_holds_everything() -> None:
    data = summarise(a_day(), DAY)
    told = json.loads(report_json(data, "All is well."))
    assert told["schema_version"] == SCHEMA_VERSION
    assert told["yield"]["value"] == data.yield_.value
    assert told["scope"]["start"] == "2026-03-09T06:00:00+00:00"
    assert len(told["inspections"]) == 2400
    assert told["chart"]["subgroups"][0]["limits"]["upper"] <= 1
    assert told["llm_summary"] == "All is well."
    assert [kind["label"] for kind in told["flaw_types"]] == [kind.label for kind in data.flaw_types]


def test_json_and_csv_of_the_same_rows_are_the_same_bytes() -> None:
    first, second = summarise(a_day(), DAY), summarise(reversed(a_day()), DAY)
    assert report_json(first) == report_json(second)
    assert report_csv(first) == report_csv(second)


def test_an_empty_span_is_valid_json_and_a_header_alone() -> None:
    data = summarise([], DAY)
    assert json.loads(report_json(data))["counts"]["total"] == 0
    assert len(list(csv.reader(io.StringIO(report_csv(data))))) == 1


def test_facts_leave_single_inspections_out() -> None:
    facts = json.loads(facts_json(summarise(a_day(), DAY)))
    assert "inspections" not in facts
    assert facts["counts"]["total"] == 2400
    assert max(len(cause["inspection_ids"]) for cause in facts["causes"]) == 5


def test_csv_has_one_row_an_inspection() -> None:
    rows = [
        row(0, Decision.UNDECIDABLE, reasons=("too dark", "blurred")),
        flawed(
            1,
            Flaw((0, 0, 9, 9), 2.0, "hole"),
            Flaw((5, 5, 9, 9), 2.0, "stain"),
            review=Review("right", "hole", "Needle"),
        ),
    ]
    blind, bad = csv.DictReader(io.StringIO(report_csv(summarise(rows, DAY)), newline=""))
    assert (blind["verdict"], blind["score"], blind["reasons"]) == ("undecidable", "", "too dark; blurred")
    assert (bad["labels"], bad["flaws"], bad["review"], bad["cause"]) == ("hole; stain", "2", "right", "Needle")


def test_severity_is_empty_where_nobody_judged_it() -> None:
    told = Flaw(None, 1.5, "hole", Severity.MINOR, source="rules")
    harmless = Flaw(None, 1.5, "print", Severity.NONE, source="llm")
    rows = [
        row(0),
        flawed(1, Flaw((0, 0, 9, 9), 2.0)),
        flawed(2, Flaw(None, 2.0, "hole", source="review")),
        flawed(3, Flaw(None, 2.0), told),
        flawed(4, harmless),
    ]
    severities = [each["severity"] for each in csv.DictReader(io.StringIO(report_csv(summarise(rows, DAY))))]
    assert severities == ["none", "", "", "minor", "none"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r", " =", "＝"])
def test_csv_cells_are_no_formulas(start: str) -> None:
    hostile = f"{start}HYPERLINK(1)"
    rows = [flawed(0, Flaw(None, None, hostile), product=hostile, lot=hostile, serial=hostile, description=hostile)]
    (told,) = csv.DictReader(io.StringIO(report_csv(summarise(rows, DAY)), newline=""))
    assert {told[name] for name in ("product", "lot", "serial", "description", "labels")} == {f"'{hostile}"}


def test_negative_numbers_stay_numbers() -> None:
    (told,) = csv.DictReader(io.StringIO(report_csv(summarise([row(0, score=-0.25)], DAY))))
    assert told["score"] == "-0.25"


@given(st.text(max_size=20))
def test_guarding_only_ever_adds_an_apostrophe(text: str) -> None:
    assert guarded(text) in {text, f"'{text}"}
    assert not guarded(text).lstrip().startswith(("=", "+", "-", "@"))
