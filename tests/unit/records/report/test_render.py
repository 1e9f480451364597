from __future__ import annotations

import json

from service.records.report.render import render
from service.records.report.summary import summarise
from tests.unit.records.report.rows import DAY, a_day, no_picture


def test_each_form_has_its_media_type_and_content() -> None:
    data = summarise(a_day(count=50), DAY)
    page = render(data, "html", no_picture, "A quiet day.")
    assert page.media_type.startswith("text/html")
    assert b"A quiet day." in page.content
    told = render(data, "json", no_picture, "A quiet day.")
    assert told.media_type == "application/json"
    assert json.loads(told.content)["llm_summary"] == "A quiet day."
    table = render(data, "csv", no_picture)
    assert table.media_type.startswith("text/csv")
    assert table.content.count(b"\r\n") == 51
