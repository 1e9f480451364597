"""ReportData -> one HTML page that stands alone: style, plots (SVG) and pictures (data URIs) are inside it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from service.errors import NoSuchRecord, RecordsFailure
from service.records.report.charts import control_chart, pareto_chart, trend_chart
from service.records.report.data import ControlChart, Counts, ReportData, TopFlaw
from service.records.report.pictures import flaw_jpeg
from service.types import Severity

_MOST_LINES = 15  # of a table
_IDS = 2  # of a cause in its row; JSON has more
FetchPicture = Callable[[str], bytes]
"""A stored picture's bytes by their sha256; raises NoSuchRecord (records/pictures.py, Pictures.get)."""


@dataclass(frozen=True, slots=True)
class _Shown:
    top: TopFlaw
    picture: str | None


def report_html(data: ReportData, fetch: FetchPicture, llm_summary: str | None = None) -> str:
    """The page. Every text in it is escaped; it refers to nothing outside itself, its links lead to its own pictures.
    `llm_summary` is plain text, shown in a box that says who wrote it."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _percent,
        "count": lambda value: f"{value:,}",
        "moment": lambda moment: f"{moment:%Y-%m-%d %H:%M}",
        "duration": _duration,
        "words": lambda name: name.replace("_", " ").replace("-", " "),
    }
    return environment.from_string(_packaged("page.html")).render(**_context(data, fetch), llm_summary=llm_summary)


def _context(data: ReportData, fetch: FetchPicture) -> dict[str, Any]:
    return {
        "data": data,
        "title": f"Inspection report, {data.scope.product or 'all products'}, {data.scope.end:%Y-%m-%d %H:%M}",
        "style": Markup(_packaged("page.css")),
        "split": _split(data.counts),
        "type_percents": apportion([kind.count for kind in data.flaw_types]),
        "control_chart": Markup(control_chart(data.chart)),
        "pareto_chart": Markup(pareto_chart(data.flaw_types)),
        "trend_chart": Markup(trend_chart(data.chart)),
        "signals": list(_signals(data.chart)),
        "flaws": [_Shown(top, _picture(top, fetch)) for top in data.top_flaws],
        "chip": _chip,
        "anchor": _anchor,
        "ids": partial(_ids, shown={top.inspection_id for top in data.top_flaws}),
        "most": _MOST_LINES,
        "further": lambda lines: (
            f" {len(lines) - _MOST_LINES:,} more are in the JSON." if len(lines) > _MOST_LINES else ""
        ),
    }


def apportion(counts: Sequence[int]) -> list[str]:
    """Percentages with one decimal that add up to 100.0 (largest remainders; ties to the first); all "0.0" of nothing."""
    total = sum(counts)
    if total == 0:
        return ["0.0"] * len(counts)
    whole = [count * 1000 // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda at: -(counts[at] * 1000 % total))
    for at in by_remainder[: 1000 - sum(whole)]:
        whole[at] += 1
    return [f"{value // 10}.{value % 10}" for value in whole]


def _split(counts: Counts) -> list[dict[str, Any]]:
    numbers = {
        "ok": counts.ok,
        "review": counts.review,
        "not_ok": counts.not_ok,
        "undecidable": counts.undecidable,
    }
    percents = apportion(list(numbers.values()))
    return [
        {"word": word, "count": count, "percent": percent}
        for (word, count), percent in zip(numbers.items(), percents, strict=True)
    ]


def _signals(chart: ControlChart) -> Iterator[dict[str, str]]:
    for signal in chart.signals:
        first, last = chart.subgroups[signal.first].start, chart.subgroups[signal.last].end
        yield {"when": _stretch(first, last), "rule": signal.rule, "words": signal.words, "side": signal.side}


def _stretch(first: datetime, last: datetime) -> str:
    end = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
    return f"{first:%Y-%m-%d %H:%M} to {end}"


def _picture(top: TopFlaw, fetch: FetchPicture) -> str | None:
    if not top.picture_stored:
        return None
    try:
        shown = flaw_jpeg(fetch(top.sha256), top.flaw.box)
    except (NoSuchRecord, RecordsFailure):  # removed by retention since, or it cannot be read: the figures stand
        return None
    return None if shown is None else f"data:image/jpeg;base64,{base64.b64encode(shown).decode()}"


def _chip(severity: Severity) -> Markup:
    return Markup('<span class="chip {0}">{1}</span>').format(
        severity.value, "no severity" if severity is Severity.NONE else severity.value
    )


def _anchor(inspection_id: str) -> str:
    return f"inspection-{inspection_id}"


def _ids(ids: Sequence[str], shown: Collection[str]) -> Markup:
    """The first ids; those of inspections `shown` on the page lead to their pictures."""
    linked = Markup('<a href="#{0}"><code>{1}</code></a>')
    first = [
        linked.format(_anchor(name), name) if name in shown else Markup("<code>{0}</code>").format(name)
        for name in ids[:_IDS]
    ]
    return Markup("<br>").join(first) + (f" and {len(ids) - _IDS} more" if len(ids) > _IDS else "")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _duration(seconds: int) -> str:
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds % size == 0:
            return unit if seconds == size else f"{seconds // size} {unit}s"
    return f"{seconds} seconds"


def _packaged(name: str) -> str:
    return files("service.records.report").joinpath(name).read_text(encoding="utf-8")
