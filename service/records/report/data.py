"""What a report is made of: the rows that are read, and the figures that are shown. Times are aware and in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from service.records.entities import ReviewVerdict
from service.records.report.control import Interval, Limits, Signal
from service.types import CaptionSource, Citation, Decision, Severity

Format = Literal["html", "json", "csv", "pdf"]
UNLABELLED = "unlabelled"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which inspections a report speaks of: created in [start, end), of one product and lot where these are given."""

    start: datetime
    end: datetime
    product: str | None = None
    lot: str | None = None


@dataclass(frozen=True, slots=True)
class Flaw:
    """One flaw of an inspection.

    `box`: (x, y, width, height) in pixels of the picture as displayed; None when a person reported a flaw that the
    detector did not see. `margin`: its score over the reject threshold. `similar`: ids of inspections with reviewed flaws
    that look alike. `case_id`: the case that a review made of it. `overkill`: a person says that it is no flaw. `cited`: past
    cases that `causes` rest on.
    """

    box: tuple[int, int, int, int] | None
    margin: float | None
    label: str = UNLABELLED
    severity: Severity = Severity.NONE
    description: str = ""
    causes: tuple[str, ...] = ()
    action: str = ""
    source: CaptionSource | Literal["review"] | None = None
    similar: tuple[str, ...] = ()
    cause_confirmed: bool = False
    action_confirmed: bool = False
    case_id: str = ""
    overkill: bool = False
    cited: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True)
class Review:
    """What people said of one inspection, the last word of each kind: the verdict was right, or wrong as `overkill` or
    `escape`; None where only some of its flaws were said to be none."""

    verdict: ReviewVerdict | None
    label: str = ""
    cause: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True)
class InspectionRow:
    """One recorded inspection as a report needs it. `score` is None where the picture could not be judged."""

    id: str
    created_at: datetime
    decision: Decision
    score: float | None
    review_threshold: float
    reject_threshold: float
    p_value: float | None = None
    product: str = ""
    lot: str = ""
    serial: str = ""
    station: str = ""
    model: str = ""
    model_version: int = 0
    sha256: str = ""
    picture_stored: bool = False
    description: str = ""
    reasons: tuple[str, ...] = ()
    flaws: tuple[Flaw, ...] = ()
    review: Review | None = None

    @property
    def margin(self) -> float | None:
        """Score over the reject threshold (1 is the limit): comparable between models; None where it has no meaning."""
        if self.score is None or self.reject_threshold <= 0:
            return None
        return self.score / self.reject_threshold


@dataclass(frozen=True, slots=True)
class Counts:
    """Inspections by verdict, and how many a person looked at with what result."""

    total: int
    ok: int
    review: int
    not_ok: int
    undecidable: int
    confirmed: int
    overkill: int
    escape: int

    @property
    def judged(self) -> int:
        """Inspections that the detector could judge."""
        return self.total - self.undecidable


@dataclass(frozen=True, slots=True)
class Yield:
    """ok / total with its 95 % Wilson interval; None when nothing was inspected."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class FlawType:
    """One bar of the Pareto chart. `share` and `cumulative` are of all flaws (0..1); `inspections` have at least one."""

    label: str
    count: int
    inspections: int
    worst: Severity
    share: float
    cumulative: float


@dataclass(frozen=True, slots=True)
class Subgroup:
    """The inspections of one stretch of time. `limits`: its place on the p-chart, None when none could be judged.

    Margins (score over reject threshold): median and 90 % quantile; None when no inspection has one."""

    start: datetime
    end: datetime
    judged: int
    undecidable: int
    not_ok: int
    limits: Limits | None
    margin_median: float | None
    margin_high: float | None


@dataclass(frozen=True, slots=True)
class ControlChart:
    """The p-chart of the share of not-ok parts. `centre` is None without a judged inspection.

    `rough`: a subgroup is so small that the normal approximation behind three sigma is coarse (n p or n (1-p) < 5)."""

    step_s: int
    centre: float | None
    subgroups: tuple[Subgroup, ...]
    signals: tuple[Signal, ...]
    rough: bool


@dataclass(frozen=True, slots=True)
class Trend:
    """Mann-Kendall's test on the subgroups' median margins: `tau` -1..1; `word` is `too few` below eight subgroups."""

    word: Literal["rising", "falling", "steady", "too few"]
    tau: float | None
    p_value: float | None


@dataclass(frozen=True, slots=True)
class TopFlaw:
    """A flaw worth looking at, with the inspection it was found in."""

    inspection_id: str
    created_at: datetime
    product: str
    lot: str
    serial: str
    sha256: str
    picture_stored: bool
    flaw: Flaw


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause named for at least two inspections, `inspection_ids`. `confirmed`: how many of them by a person. `case_ids`: the
    cases that those reviews made, then the past ones that captions cite for it, whose inspections are `cited_ids`;
    `similar_ids`: inspections with reviewed flaws that its captions liken theirs to."""

    text: str
    count: int
    confirmed: int
    labels: tuple[str, ...]
    case_ids: tuple[str, ...]
    inspection_ids: tuple[str, ...]
    cited_ids: tuple[str, ...]
    similar_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Action:
    """A recommended action, with the flaws it answers."""

    text: str
    count: int
    worst: Severity
    labels: tuple[str, ...]
    confirmed: int


@dataclass(frozen=True, slots=True)
class ReportData:
    """A whole report. It follows from the rows and the scope alone."""

    scope: Scope
    counts: Counts
    yield_: Yield
    headlines: tuple[str, ...]
    flaw_types: tuple[FlawType, ...]
    chart: ControlChart
    trend: Trend
    top_flaws: tuple[TopFlaw, ...]
    causes: tuple[Cause, ...]
    actions: tuple[Action, ...]
    inspections: tuple[InspectionRow, ...]
