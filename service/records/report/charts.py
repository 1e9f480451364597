"""A report's charts as SVG strings: Pareto, p-chart, score trend. Each says so when there is nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from service.records.report import svg
from service.records.report.data import ControlChart, FlawType, Subgroup
from service.records.report.svg import Frame, Point

_WIDTH, _HEIGHT = 760.0, 280.0
_MOST_BARS = 9  # and one bar for the others
_LABEL_LETTERS = 11
_TIME_LABELS = 7
_DAY_S = 86_400


def pareto_chart(types: Sequence[FlawType]) -> str:
    """Flaw types as bars by falling count, with the line of their cumulative share (right-hand axis)."""
    label = "Flaws by type (Pareto)"
    if not types:
        return _nothing(label, "no flaw in this span")
    total = sum(kind.count for kind in types)
    bars = [(kind.label, kind.count, kind.cumulative) for kind in types[:_MOST_BARS]]
    if others := types[_MOST_BARS:]:
        bars.append((f"{len(others)} other types", sum(kind.count for kind in others), 1.0))
    values = svg.ticks(total)
    frame = Frame(_WIDTH, _HEIGHT, 0, total)
    middles, thick = frame.slots(len(bars)), min(64.0, 0.66 * (frame.x(1) - frame.x(0)) / len(bars))
    shown = [value for value in values if value <= total and value == int(value)]
    parts = [svg.grid(frame, shown, [f"{value:,.0f}" for value in shown])]
    parts += [
        svg.text((frame.x(1) + 8, frame.y(share * total) + 4), f"{share:.0%}", anchor="start")
        for share in (0, 0.5, 0.8, 1)
    ]
    parts.append(
        svg.line((frame.x(0), frame.y(0.8 * total)), (frame.x(1), frame.y(0.8 * total)), "muted", dashed="2 4")
    )
    for middle, (name, count, _) in zip(middles, bars, strict=True):
        title = f"{name}: {count:,} of {total:,} flaws ({count / total:.1%})"
        parts.append(svg.bar((middle - thick / 2, frame.y(count)), (thick, frame.y(0) - frame.y(count)), "bar", title))
        parts.append(svg.text((middle, frame.y(count) - 6), f"{count:,}", "ink", bold=True))
        parts += [svg.text((middle, frame.y(0) + 16 + 13 * row), words) for row, words in enumerate(_wrapped(name))]
    corners = [
        (middle + thick / 2, frame.y(share * total)) for middle, (_, _, share) in zip(middles, bars, strict=True)
    ]
    parts.append(svg.polyline(corners, "limit"))
    parts += [
        svg.dot(corner, 3.5, "limit", f"up to {name}: {share:.1%} of flaws")
        for corner, (name, _, share) in zip(corners, bars, strict=True)
    ]
    return svg.document(frame, label, parts)


def control_chart(chart: ControlChart) -> str:
    """The p-chart: share of not ok per subgroup, centre line and each subgroup's own limits; signals are red."""
    label = "Share of not ok with control limits (p-chart)"
    if chart.centre is None:
        return _nothing(label, "no picture could be judged in this span")
    drawn = [(place, group, group.limits) for place, group in enumerate(chart.subgroups) if group.limits]
    top = max(max(limits.share, limits.upper) for _, _, limits in drawn)
    values = svg.ticks(min(1.0, top * 1.08) if top > 0 else 0.05)
    frame = Frame(_WIDTH, _HEIGHT, 0, values[-1])
    edges = [frame.x(place / len(chart.subgroups)) for place in range(len(chart.subgroups) + 1)]
    upper = [(edges[at + end], frame.y(limits.upper)) for at, _, limits in drawn for end in (0, 1)]
    lower = [(edges[at + end], frame.y(limits.lower)) for at, _, limits in drawn for end in (0, 1)]
    alarms = {at for signal in chart.signals for at in range(signal.first, signal.last + 1)}
    middles = frame.slots(len(chart.subgroups))
    points = [(middles[at], frame.y(limits.share)) for at, _, limits in drawn]
    parts = [
        svg.area([*upper, *reversed(lower)], "band"),
        svg.grid(frame, values, _percents(values)),
        svg.polyline(upper, "limit", dashed="5 4", width=1.2),
        svg.polyline(lower, "limit", dashed="5 4", width=1.2),
        svg.line((frame.x(0), frame.y(chart.centre)), (frame.x(1), frame.y(chart.centre)), "muted", width=1.2),
        svg.polyline(points, "series", width=1.8),
        _side_words(frame, [("upper", upper[-1][1]), (f"mean {chart.centre:.1%}", frame.y(chart.centre))]),
        _times(frame, chart.subgroups, chart.step_s),
    ]
    for point, (at, group, limits) in zip(points, drawn, strict=True):
        title = f"{_time(group.start, chart.step_s, full=True)}: {group.not_ok} of {group.judged} not ok ({limits.share:.1%})"
        parts.append(svg.dot(point, 5 if at in alarms else 3.2, "alarm" if at in alarms else "series", title))
    return svg.document(frame, label, parts)


def trend_chart(chart: ControlChart) -> str:
    """Scores over the reject threshold by subgroup: the median as a line, up to the 90 % quantile as a band."""
    label = "Scores against the reject threshold"
    known = [
        (at, group.margin_median, group.margin_high)
        for at, group in enumerate(chart.subgroups)
        if group.margin_median is not None and group.margin_high is not None
    ]
    if not known:
        return _nothing(label, "no score in this span")
    values = svg.ticks(max(1.1, *(high for _, _, high in known)))
    frame = Frame(_WIDTH, _HEIGHT, min(0.0, *(median for _, median, _ in known)), values[-1])
    middles = frame.slots(len(chart.subgroups))
    highs = [(middles[at], frame.y(high)) for at, _, high in known]
    medians = [(middles[at], frame.y(median)) for at, median, _ in known]
    parts = [
        svg.area([*highs, *reversed(medians)], "band"),
        svg.grid(frame, values, [f"{value:g}×" for value in values]),
        svg.line((frame.x(0), frame.y(1)), (frame.x(1), frame.y(1)), "alarm", dashed="5 4", width=1.4),
        svg.polyline(highs, "bar", width=1.2, dashed="3 3"),
        svg.polyline(medians, "series"),
        _side_words(frame, [("reject", frame.y(1)), ("median", medians[-1][1]), ("90%", highs[-1][1])]),
        _times(frame, chart.subgroups, chart.step_s),
    ]
    for at, median, high in known:
        title = (
            f"{_time(chart.subgroups[at].start, chart.step_s, full=True)}: median {median:.2f}×, 90% below {high:.2f}×"
        )
        parts.append(svg.dot((middles[at], frame.y(median)), 3, "series", title))
    return svg.document(frame, label, parts)


def _nothing(label: str, words: str) -> str:
    frame = Frame(_WIDTH, 90, 0, 1)
    return svg.document(frame, f"{label}: {words}", [svg.text((_WIDTH / 2, 50), words)])


def _percents(values: Sequence[float]) -> list[str]:
    step = values[1] - values[0]
    digits = 0 if abs(step * 100 - round(step * 100)) < 1e-9 else 1 if step >= 0.0005 else 2
    return [f"{value:.{digits}%}" for value in values]


def _side_words(frame: Frame, words: Sequence[tuple[str, float]]) -> str:
    """Names of lines at the right edge, moved apart where they would overlap."""
    placed: list[tuple[str, float]] = []
    for word, y in sorted(words, key=lambda item: item[1]):
        placed.append((word, max(y, placed[-1][1] + 13) if placed else y))
    return "".join(svg.text((frame.x(1) + 6, y + 4), word, anchor="start") for word, y in placed)


def _times(frame: Frame, groups: Sequence[Subgroup], step_s: int) -> str:
    every = -(-len(groups) // _TIME_LABELS)
    middles = frame.slots(len(groups))
    labelled: list[Point] = [(middles[at], at) for at in range(0, len(groups), every)]
    return "".join(
        svg.text((x, frame.height - frame.bottom + 18), _time(groups[int(at)].start, step_s, full=_many_days(groups)))
        for x, at in labelled
    )


def _many_days(groups: Sequence[Subgroup]) -> bool:
    return groups[0].start.date() != groups[-1].start.date()


def _time(moment: datetime, step_s: int, *, full: bool) -> str:
    if step_s >= _DAY_S:
        return f"{moment:%d %b}"
    return f"{moment:%d %b %H:%M}" if full else f"{moment:%H:%M}"


def _wrapped(label: str) -> list[str]:
    """A label on at most two lines."""
    rows = [""]
    for word in label.replace("_", " ").replace("-", " ").split():
        joined = f"{rows[-1]} {word}".strip()
        if len(joined) <= _LABEL_LETTERS or not rows[-1]:
            rows[-1] = joined
        else:
            rows.append(word)
    kept = [row if len(row) <= _LABEL_LETTERS else row[: _LABEL_LETTERS - 1] + "…" for row in rows[:2]]
    return kept[:1] + [kept[1].rstrip("…") + "…"] if len(rows) > 2 else kept
