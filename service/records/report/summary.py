"""Rows and scope -> ReportData, and the sentences at its top. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from service.records.report.control import BEYOND_LIMITS, wilson
from service.records.report.data import ControlChart, Counts, FlawType, InspectionRow, ReportData, Scope, Trend, Yield
from service.records.report.flaws import actions, pareto, recurring_causes, top_flaws
from service.records.report.timeline import control_chart, trend
from service.types import Decision

TOP_FLAWS = 12


def summarise(rows: Iterable[InspectionRow], scope: Scope, *, top: int = TOP_FLAWS) -> ReportData:
    """A report over `rows`, which lie in `scope`, in any order. The same rows and scope give the same report."""
    ordered = tuple(sorted(rows, key=lambda row: (row.created_at, row.id)))
    counts = _counts(ordered)
    types = pareto(ordered)
    chart = control_chart(ordered, scope)
    going = trend(chart)
    share = Yield(counts.ok / counts.total if counts.total else None, wilson(counts.ok, counts.total))
    return ReportData(
        scope=scope,
        counts=counts,
        yield_=share,
        headlines=tuple(_headlines(counts, share, types, chart, going)),
        flaw_types=types,
        chart=chart,
        trend=going,
        top_flaws=top_flaws(ordered, top),
        causes=recurring_causes(ordered),
        actions=actions(ordered),
        inspections=ordered,
    )


def _counts(rows: Sequence[InspectionRow]) -> Counts:
    def of(decision: Decision) -> int:
        return sum(row.decision is decision for row in rows)

    words = [row.review.verdict for row in rows if row.review is not None]
    return Counts(
        total=len(rows),
        ok=of(Decision.OK),
        review=of(Decision.REVIEW),
        not_ok=of(Decision.NOT_OK),
        undecidable=of(Decision.UNDECIDABLE),
        confirmed=words.count("right"),
        overkill=words.count("overkill"),
        escape=words.count("escape"),
    )


def _headlines(
    counts: Counts, share: Yield, types: Sequence[FlawType], chart: ControlChart, going: Trend
) -> Iterator[str]:
    if share.value is None or share.interval is None:
        yield "Nothing was inspected in this span."
        return
    yield (
        f"Yield {share.value:.1%}: {counts.ok:,} of {counts.total:,} ok "
        f"(95% interval {share.interval.low:.1%} to {share.interval.high:.1%})."
    )
    if types:
        yield f"Most frequent flaw: {types[0].label}, {types[0].count:,} times, {types[0].share:.0%} of all flaws."
    if len(chart.subgroups) > 1 and chart.centre is not None:
        yield _control(chart)
    if going.word in {"rising", "falling"}:
        yield f"Scores are {going.word} against the threshold."
    if counts.undecidable:
        yield f"{_several(counts.undecidable, 'picture')} could not be judged ({counts.undecidable / counts.total:.1%})."
    if counts.overkill or counts.escape:
        yield f"Reviews found {_several(counts.overkill, 'overkill')} and {_several(counts.escape, 'escape')}."


def _control(chart: ControlChart) -> str:
    sides = {signal.side for signal in chart.signals if signal.rule == BEYOND_LIMITS}
    if sides:
        return f"The share of not ok went {' and '.join(sorted(sides))} its control limits: look at what changed then."
    if chart.signals:
        patterns = "; ".join(dict.fromkeys(signal.words for signal in chart.signals))
        return f"The share of not ok stayed within its control limits, with a pattern in it ({patterns})."
    return "The share of not ok is in statistical control."


def _several(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 or noun == "overkill" else f"{count:,} {noun}s"
