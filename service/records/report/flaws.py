"""Flaws of the reported inspections: types by count, the worst ones, their causes and what to do. Pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from service.records.report.data import Action, Cause, Flaw, FlawType, InspectionRow, TopFlaw
from service.types import Decision, Severity

_RANK = {Severity.NONE: 0, Severity.MINOR: 1, Severity.MAJOR: 2, Severity.CRITICAL: 3}
_RECURS = 2  # a cause named once does not recur


def known_flaws(row: InspectionRow) -> tuple[Flaw, ...]:
    """The flaws of an inspection as far as is known: none when it is ok, without those that a person called overkill; a
    flaw without a place when a person reports an escape that the detector saw nothing of."""
    if row.review is not None and row.review.verdict == "escape" and not row.flaws:
        review = row.review
        return (reviewed(Flaw(None, row.margin), review.label, review.cause, review.action),)
    flawed = row.decision in {Decision.NOT_OK, Decision.REVIEW}
    return tuple(flaw for flaw in row.flaws if not flaw.overkill) if flawed else ()


def reviewed(flaw: Flaw, label: str, cause: str, action: str, case_id: str = "") -> Flaw:
    """A flaw with a person's words, where they are given, in place of a caption's."""
    return replace(
        flaw,
        label=label or flaw.label,
        causes=(cause,) if cause else flaw.causes,
        cited=tuple(each for each in flaw.cited if not cause or _folded(each.cause) == _folded(cause)),
        action=action or flaw.action,
        source="review" if label or cause or action else flaw.source,
        cause_confirmed=bool(cause) or flaw.cause_confirmed,
        action_confirmed=bool(action) or flaw.action_confirmed,
        case_id=case_id or flaw.case_id,
    )


def worst(severities: Iterable[Severity]) -> Severity:
    """The most severe; `none` of none."""
    return max(severities, key=_RANK.__getitem__, default=Severity.NONE)


def pareto(rows: Sequence[InspectionRow]) -> tuple[FlawType, ...]:
    """Flaw types by falling count (then by label), with shares of all flaws; the last cumulative share is exactly 1."""
    by_label: dict[str, list[Flaw]] = defaultdict(list)
    inspections: Counter[str] = Counter()
    for row in rows:
        for flaw in known_flaws(row):
            by_label[flaw.label].append(flaw)
        inspections.update({flaw.label for flaw in known_flaws(row)})
    total = sum(len(flaws) for flaws in by_label.values())
    types, so_far = [], 0
    for label, flaws in sorted(by_label.items(), key=lambda item: (-len(item[1]), item[0])):
        so_far += len(flaws)
        severity = worst(flaw.severity for flaw in flaws)
        types.append(FlawType(label, len(flaws), inspections[label], severity, len(flaws) / total, so_far / total))
    return tuple(types)


def top_flaws(rows: Sequence[InspectionRow], limit: int) -> tuple[TopFlaw, ...]:
    """The worst flaw of each inspection, the `limit` worst of these: by severity, then margin, then the earliest."""
    candidates = []
    for row in rows:
        flaws = known_flaws(row)
        if flaws:
            flaw = max(flaws, key=lambda flaw: (_RANK[flaw.severity], flaw.margin or 0.0))
            candidates.append((row, flaw))
    candidates.sort(
        key=lambda pair: (-_RANK[pair[1].severity], -(pair[1].margin or 0.0), pair[0].created_at, pair[0].id)
    )
    return tuple(
        TopFlaw(row.id, row.created_at, row.product, row.lot, row.serial, row.sha256, row.picture_stored, flaw)
        for row, flaw in candidates[:limit]
    )


def recurring_causes(rows: Sequence[InspectionRow]) -> tuple[Cause, ...]:
    """Causes named for at least two inspections, by a person or a caption; those that a person confirmed come first."""
    named: dict[str, dict[str, bool]] = defaultdict(dict)  # cause -> inspection -> whether a person said so
    spelled: dict[str, str] = {}
    labels: dict[str, set[str]] = defaultdict(set)
    made: dict[str, dict[str, None]] = defaultdict(dict)
    cited: dict[str, dict[str, str]] = defaultdict(dict)  # cause -> past case -> its inspection
    alike: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        for flaw in known_flaws(row):
            for cause in flaw.causes:
                key = _folded(cause)
                spelled.setdefault(key, " ".join(cause.split()))
                named[key][row.id] = named[key].get(row.id, False) or flaw.cause_confirmed
                labels[key].add(flaw.label)
                if flaw.cause_confirmed and flaw.case_id:
                    made[key][flaw.case_id] = None
                cited[key].update(
                    {each.case_id: each.inspection_id for each in flaw.cited if _folded(each.cause) == key}
                )
                alike[key].update(dict.fromkeys(flaw.similar))
    causes = [
        Cause(
            spelled[key],
            len(ids),
            sum(ids.values()),
            tuple(sorted(labels[key])),
            tuple(dict.fromkeys((*made[key], *cited[key]))),
            tuple(ids),
            tuple(dict.fromkeys(cited[key].values())),
            tuple(alike[key]),
        )
        for key, ids in named.items()
        if key and len(ids) >= _RECURS
    ]
    return tuple(sorted(causes, key=lambda cause: (-cause.confirmed, -cause.count, cause.text)))


def actions(rows: Sequence[InspectionRow]) -> tuple[Action, ...]:
    """Recommended actions, the most severe flaws' first, then by the number of flaws that ask for them."""
    asking: dict[str, list[Flaw]] = defaultdict(list)
    spelled: dict[str, str] = {}
    for row in rows:
        for flaw in known_flaws(row):
            if key := _folded(flaw.action):
                spelled.setdefault(key, " ".join(flaw.action.split()))
                asking[key].append(flaw)
    told = [
        Action(
            spelled[key],
            len(flaws),
            worst(flaw.severity for flaw in flaws),
            tuple(sorted({flaw.label for flaw in flaws})),
            sum(flaw.action_confirmed for flaw in flaws),
        )
        for key, flaws in asking.items()
    ]
    return tuple(sorted(told, key=lambda action: (-_RANK[action.worst], -action.count, action.text)))


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".")
