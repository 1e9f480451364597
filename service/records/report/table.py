"""ReportData -> JSON (everything) and CSV (one row an inspection)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from service.records.report.data import Flaw, InspectionRow, ReportData
from service.records.report.flaws import known_flaws, worst
from service.types import Severity

SCHEMA_VERSION = 1
_IDS = 5
_FORMULA = tuple("=+-@＝＋－＠")
_COLUMNS = (
    "id",
    "created_at",
    "product",
    "lot",
    "serial",
    "station",
    "model",
    "model_version",
    "verdict",
    "score",
    "review_threshold",
    "reject_threshold",
    "p_value",
    "reasons",
    "flaws",
    "labels",
    "severity",
    "description",
    "review",
    "review_label",
    "cause",
    "action",
    "image_sha256",
)


def report_json(data: ReportData, llm_summary: str | None = None) -> str:
    """Everything the report holds, with its inspections. Shares are 0..1, times ISO 8601 in UTC, ids as in the records;
    `schema_version` grows when a field changes its meaning or goes."""
    whole = {"schema_version": SCHEMA_VERSION, **_plain(data), "llm_summary": llm_summary}
    return json.dumps(whole, default=_moment, allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def facts_json(data: ReportData) -> str:
    """What a language model needs to sum the report up, on one line: the same without single inspections, and with at
    most five ids of a kind for a cause."""
    facts = _plain(replace(data, inspections=()))
    del facts["inspections"]
    facts["causes"] = [
        {name: value[:_IDS] if name.endswith("_ids") else value for name, value in cause.items()}
        for cause in facts["causes"]
    ]
    return json.dumps(facts, default=_moment, allow_nan=False, ensure_ascii=False)


def report_csv(data: ReportData) -> str:
    """The report's inspections; see rows_csv."""
    return rows_csv(data.inspections)


def rows_csv(rows: Iterable[InspectionRow]) -> str:
    """One row an inspection, with a header, lines ended by CR LF (RFC 4180). A text that a spreadsheet would take for a
    formula has an apostrophe before it; numbers stay as they are. Several texts in a cell are parted by "; "."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow([guarded(cell) if isinstance(cell, str) else cell for cell in _cells(row)])
    return stream.getvalue()


def guarded(text: str) -> str:
    """A text that no spreadsheet takes for a formula (OWASP, CSV injection)."""
    risky = text.lstrip().startswith(_FORMULA) or text[:1] in {"\t", "\r", "\n"}
    return f"'{text}" if risky else text


def _cells(row: InspectionRow) -> tuple[Any, ...]:
    flaws, review = known_flaws(row), row.review
    return (
        row.id,
        row.created_at.isoformat(),
        row.product,
        row.lot,
        row.serial,
        row.station,
        row.model,
        row.model_version,
        row.decision.value,
        row.score,
        row.review_threshold,
        row.reject_threshold,
        row.p_value,
        "; ".join(row.reasons),
        len(flaws),
        "; ".join(sorted({flaw.label for flaw in flaws})),
        _severity(flaws),
        row.description,
        review.verdict if review else "",
        review.label if review else "",
        review.cause if review else "",
        review.action if review else "",
        row.sha256,
    )


def _severity(flaws: Sequence[Flaw]) -> str:
    """The worst of what was said of the flaws; nothing where there are some and nobody judged how bad they are."""
    said = [flaw for flaw in flaws if flaw.severity is not Severity.NONE or flaw.source not in (None, "review")]
    return "" if flaws and not said else worst(flaw.severity for flaw in said).value


def _plain(data: ReportData) -> dict[str, Any]:
    return asdict(data, dict_factory=lambda pairs: {name.rstrip("_"): value for name, value in pairs})


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON form of {type(value)}")
