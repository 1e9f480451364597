"""Reads what an LLM wrote: unwraps it, validates it, and takes nothing from it that was not allowed."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.captions.answer import Cause, LlmCaption, LlmUnavailable, Reason
from service.captions.answer_form import WireCause, WireEntry, by_region, parse_answer
from service.captions.language import Languages
from service.captions.products import UNKNOWN, folded
from service.captions.prompt import LlmTask
from service.captions.rules import MOST_WORDS
from service.types import Severity

_MOST_CONTENT = 1 << 16  # characters of an answer; ten times what eight regions need
_MOST_CHARACTERS = 120  # of a description, for scripts without spaces
_MOST_LABEL = 60
_MOST_CAUSES = 3
_MOST_TEXT = 300
_SAYS_NORMAL = re.compile(  # as the statement itself: "dark thread, no defect elsewhere" and "normal weave cut by …" say a flaw
    r"^(this|it) (is|looks|appears) (normal|ok\b|fine\W*($|[,.;]))|^(there (is|are) )?no (visible )?(defect|flaw|anomal)"
    r"|^normal( \w+){0,2}\W*($|[,.;])"
)
_NORMAL_LABELS = {"normal", "ok", "okay", "good", "fine", "none", "no defect", "no flaw", "no anomaly", "defect free"}
_DANGLING = {
    "a",
    "an",
    "the",
    "of",
    "at",
    "in",
    "on",
    "and",
    "or",
    "with",
    "to",
    "from",
    "by",
    "near",
    "across",
    "over",
    "is",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A checked answer. `complaint`: what is worth asking once more for; the answer is usable as it is."""

    picture: LlmCaption | None
    regions: tuple[LlmCaption | None, ...]
    flags: tuple[str, ...]
    complaint: str | None = None


@dataclass(slots=True)
class _Findings:
    """What was put right in an answer, as it is found."""

    flags: list[str] = field(default_factory=list)
    complaint: str | None = None


def read_answer(content: str, task: LlmTask, languages: Languages) -> Reading:
    """The answer in `content`, which may be fenced or have words about it.

    Raises LlmUnavailable: `empty`, `too_large`, `invalid_answer` (no JSON object of the asked form), `wrong_language`.
    """
    if not content.strip():
        raise LlmUnavailable(Reason.EMPTY, "the answer is empty")
    if len(content) > _MOST_CONTENT:
        raise LlmUnavailable(Reason.TOO_LARGE, "the answer has more text than any task needs")
    answer = parse_answer(content)
    found = _Findings()
    picture = _caption(answer.picture, "picture", task, found)
    entries = by_region(answer, len(task.regions))
    regions = tuple(_caption(entry, f"region-{number}", task, found) for number, entry in enumerate(entries, start=1))
    captions = [caption for caption in (picture, *regions) if caption]
    if not captions and not found.flags:
        raise LlmUnavailable(Reason.EMPTY, "the answer describes nothing")
    wanted = languages.get(task.language)
    if languages.differs(_prose(captions), wanted):
        raise LlmUnavailable(Reason.WRONG_LANGUAGE, f"the answer is not in {wanted.name}")
    return Reading(picture, regions, tuple(found.flags), found.complaint)


def cut_words(text: str, most: int = MOST_WORDS) -> str:
    """`text` cut after `most` words, without a dangling small word at the end."""
    words = text.split()
    if len(words) > most:
        words = words[:most]
        while len(words) > 1 and words[-1].casefold().strip(",;:-–—") in _DANGLING:
            words.pop()
    cut = " ".join(words)
    return cut if len(cut) <= _MOST_CHARACTERS else cut[:_MOST_CHARACTERS].rsplit(" ", 1)[0]


def _caption(entry: WireEntry | None, place: str, task: LlmTask, found: _Findings) -> LlmCaption | None:
    description = _plain(entry.description if entry else None)
    if entry is None or not description:
        return None
    label = _plain(entry.label, _MOST_LABEL) or UNKNOWN
    if folded(label) in _NORMAL_LABELS or _SAYS_NORMAL.search(description.casefold()):
        # the detector's verdict stands, and "normal" means no region
        found.flags.append(f"{Reason.CONTRADICTS_VERDICT.value}:{place}")
        return None
    if len(description.split()) > MOST_WORDS or len(description) > _MOST_CHARACTERS:
        found.flags.append(f"description_cut:{place}")
        found.complaint = f"a description has more than {MOST_WORDS} words"
    known = {folded(item.label): item.label for item in task.taxonomy} | {UNKNOWN: UNKNOWN}
    return LlmCaption(
        label=known.get(folded(label), label.lower()),
        description=cut_words(description),
        severity=_severity(entry.severity, place, found),
        causes=_causes(entry.causes or (), place, task, found),
        action=_plain(entry.action),
        confidence=_confidence(entry.confidence, place, found),
        is_new_type=folded(label) not in known,
    )


def _severity(word: str | None, place: str, found: _Findings) -> Severity | None:
    """The suggestion, when it is one: a flaw cannot have none."""
    said = folded(word or "")
    if said in ("minor", "major", "critical"):
        return Severity(said)
    if said:
        found.flags.append(f"severity_dropped:{place}")
    return None


def _causes(given: Sequence[WireCause | str], place: str, task: LlmTask, found: _Findings) -> tuple[Cause, ...]:
    """At most three causes, with only those case ids that the task gave."""
    allowed = {case.case_id for case in task.cases}
    causes = []
    for raw in given:
        cause = WireCause(text=raw) if isinstance(raw, str) else raw
        cited = [str(case_id).strip() for case_id in cause.case_ids or ()]
        if not allowed.issuperset(cited):
            found.flags.append(f"cited_unknown_case:{place}")
        if text := _plain(cause.text):
            causes.append(Cause(text, tuple(dict.fromkeys(case_id for case_id in cited if case_id in allowed))))
    return tuple(causes[:_MOST_CAUSES])


def _confidence(value: float | None, place: str, found: _Findings) -> float | None:
    if value is None or (math.isfinite(value) and 0 <= value <= 1):
        return value
    found.flags.append(f"confidence_dropped:{place}")
    return None


def _plain(text: str | None, most: int = _MOST_TEXT) -> str:
    """One line of visible characters, without quotation marks about it, cut at a word."""
    visible = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text or "")
    line = " ".join(visible.split()).strip("\"'` ")
    return line if len(line) <= most else line[:most].rsplit(" ", 1)[0]


def _prose(captions: Sequence[LlmCaption]) -> str:
    return " ".join(
        text
        for caption in captions
        for text in (caption.description, *(cause.text for cause in caption.causes), caption.action)
    )
