from __future__ import annotations

import sys

import pytest
from PIL import ImageFile

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
def test_the_page_becomes_a_pdf_and_pictures_cut_short_stay_unreadable() -> None:
    """WeasyPrint, when it is imported, tells Pillow to fill up what is missing of a picture."""
    page = report_html(summarise(a_day(), DAY), no_picture)
    try:
        pdf = report_pdf(page)
    except NotAcceptable as missing:
        pytest.skip(missing.detail)
    assert pdf.startswith(b"%PDF-")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
