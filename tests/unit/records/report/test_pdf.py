from __future__ import annotations

import sys

import pytest

from service.errors import NotAcceptable
from service.records.report.html import report_html
from service.records.report.pdf import report_pdf
from service.records.report.summary import summarise
from tests.unit.records.report.rows import DAY, a_day, no_picture


def test_without_weasyprint_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    monkeypatch.setitem(sys.modules, "weasyprint.urls", None)
    with pytest.raises(NotAcceptable, match=r"flawscribe\[pdf\]"):
        report_pdf("<p>report</p>")


@pytest.mark.slow
def test_the_page_becomes_a_pdf() -> None:
    pytest.importorskip("weasyprint", reason="needs WeasyPrint", exc_type=(ImportError, OSError))
    page = report_html(summarise(a_day(), DAY), no_picture)
    assert report_pdf(page).startswith(b"%PDF-")
