"""ReportData -> a document in the form that is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from service.records.report.data import Format, ReportData
from service.records.report.html import FetchPicture, report_html
from service.records.report.pdf import report_pdf
from service.records.report.table import report_csv, report_json


@dataclass(frozen=True, slots=True)
class Document:
    """A report's bytes and their media type."""

    content: bytes
    media_type: str


def render(data: ReportData, form: Format, fetch: FetchPicture, llm_summary: str | None = None) -> Document:
    """The report as a document. CSV has no place for `llm_summary`. Raises NotAcceptable for a PDF that cannot be made
    here. Decodes the pictures of the top flaws for HTML and PDF: keep it off the event loop."""
    match form:
        case "html":
            return Document(report_html(data, fetch, llm_summary).encode(), "text/html; charset=utf-8")
        case "pdf":
            return Document(report_pdf(report_html(data, fetch, llm_summary)), "application/pdf")
        case "json":
            return Document(report_json(data, llm_summary).encode(), "application/json")
        case "csv":
            return Document(report_csv(data).encode(), "text/csv; charset=utf-8")
