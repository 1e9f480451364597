"""An inspection in words, on one page: verdict ok -> "This is normal"; else memory, the LLM, and rules where neither answers.

The verdict and its regions are the detector's; nothing in here can change them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.captions.answer import LlmAnswer, LlmCaption, LlmUnavailable, Reason
from service.captions.composite import build_pictures
from service.captions.figures import as_measured, measure
from service.captions.memory import Memory, Recall, require_comparable
from service.captions.products import UNKNOWN, ProductCard, Products, Taxonomy, taxonomy
from service.captions.prompt import LabelWords, LlmCase, LlmRegion, LlmTask
from service.captions.rules import classify_by_rules, classify_picture, margin_words, named, ten_words
from service.captions.severity import severity_of
from service.decision.regions import mask_pixels, region_pixels
from service.image.prepare import thumbnail
from service.records.entities import StoredCase
from service.types import Citation, Classification, Decision, Inspection, Region

if TYPE_CHECKING:
    from service.captions.guard import GuardedLlm

log = logging.getLogger("flawscribe.captions")
Rgb = NDArray[np.uint8]
_MARGIN_S = 0.1  # kept of the caller's deadline for what comes after the LLM
_MOST_SHOWN = 8  # regions that the LLM is shown
_MOST_CASES = 5  # similar past cases told to the LLM and to the caller


@dataclass(frozen=True, slots=True)
class Site:
    """What is known of the model's pictures: the scale in mm per px, the teacher, and typical normal pictures."""

    mm_per_pixel: float | None
    teacher_sha256: str
    references: tuple[Rgb, ...] = ()


@dataclass(frozen=True, slots=True)
class LlmUse:
    """What the LLM was asked and what it cost. `flags`: what was put right in its answer."""

    model: str
    tokens_in: int
    tokens_out: int
    calls: int
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Captions:
    """The picture and each region of its verdict in words; `llm` when it was asked and answered."""

    picture: Classification
    regions: tuple[Classification, ...]
    llm: LlmUse | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the house itself makes of a flawed picture: rules and memory for each region."""

    masks: list[NDArray[np.bool_]]
    regions: list[Region]  # with their measured areas
    rules: list[Classification]
    recalls: list[Recall | None]


class Captioner:
    """Puts inspections into words. `accepted`: labels that reviews have added to a product's taxonomy."""

    def __init__(
        self,
        products: Products,
        memory: Memory,
        llm: GuardedLlm | None = None,
        accepted: Callable[[str], Sequence[str]] = lambda product: (),
    ) -> None:
        self.products = products
        self.memory = memory
        self.llm = llm
        self._accepted = accepted

    async def classify(
        self, inspection: Inspection, site: Site, *, product: str, context: str = "", deadline: float
    ) -> Captions:
        """Words for an inspection, by `deadline` (time.monotonic()). `context`: the caller's free text about the part.

        Never fails for the LLM's sake: then `degraded` and `fallback_reason` say so.
        """
        verdict = inspection.verdict
        if verdict.decision in (Decision.OK, Decision.UNDECIDABLE):
            return Captions(classify_picture(verdict, ()), ())
        card = self.products.card(product)
        labels = taxonomy(card, self._accepted(product))
        seen = await asyncio.to_thread(self._look, inspection, site, card, product)
        own = [
            _remembered(card, rules, recall, region, inspection, site)
            for rules, recall, region in zip(seen.rules, seen.recalls, seen.regions, strict=True)
        ]
        if self.llm is None or not card.may_leave or all(item.source == "memory" for item in own):
            return Captions(classify_picture(verdict, own), tuple(own))
        try:
            task = await asyncio.to_thread(_task, inspection, site, card, labels, seen, context)
            answer = await self.llm.caption(task, deadline - _MARGIN_S)
        except LlmUnavailable as failure:
            reason = failure.reason.value
            fallen = [item if item.source == "memory" else _degraded(item, reason) for item in own]
            return Captions(_degraded(classify_picture(verdict, fallen), reason), tuple(fallen))
        return _told(inspection, site, card, seen, own, answer)

    def learn(self, cases: Sequence[StoredCase], withdrawn: Sequence[str] = ()) -> None:
        """Take reviewed cases into the memory, and those of the ids `withdrawn` out of it.

        Cases whose descriptors cannot be compared with the others', such as an older release's, are left out and logged.
        """
        for case_id in withdrawn:
            self.memory.remove(case_id)
        left_out, taken = [], []
        for case in cases:  # each by itself is quick; taking them in is not, so that they are taken in together
            try:
                require_comparable(case)
            except ValueError as error:
                left_out.append(str(error))
            else:
                taken.append(case)
        try:
            self.memory.add(*taken)
        except ValueError as error:  # one is of another length than the others of its product and teacher
            if len(taken) == 1:
                left_out.append(str(error))
            else:
                for case in taken:
                    self.learn([case])
        if left_out:
            log.error("%d cases are not remembered, the first because: %s", len(left_out), left_out[0])

    def _look(self, inspection: Inspection, site: Site, card: ProductCard, product: str) -> _Seen:
        verdict, rgb = inspection.verdict, inspection.rgb
        review = verdict.thresholds.review
        masks = list(region_pixels(inspection.anomaly_map, review))
        flawed = mask_pixels(inspection.anomaly_map, review)
        found = [measure(rgb, region.box, mask, flawed) for region, mask in zip(verdict.regions, masks, strict=True)]
        regions = [
            as_measured(region, figures, inspection.size)
            for region, figures in zip(verdict.regions, found, strict=True)
        ]
        rules = [
            classify_by_rules(card, figures, region, inspection.size, verdict, mm_per_pixel=site.mm_per_pixel)
            for figures, region in zip(found, regions, strict=True)
        ]
        recalls: list[Recall | None] = [None] * len(rules)
        if inspection.descriptors is not None:
            recalls = [self.memory.recall(product, site.teacher_sha256, each) for each in inspection.descriptors]
        return _Seen(masks, regions, rules, recalls)


def _remembered(
    card: ProductCard, rules: Classification, recall: Recall | None, region: Region, inspection: Inspection, site: Site
) -> Classification:
    """What memory says of a region where it is sure; else what the rules say, with the similar cases beside it."""
    if recall is None:
        return rules
    similar = recall.similar[:_MOST_CASES]
    if not recall.sure:
        return replace(rules, similar=similar)
    flaw = card.flaw(recall.label)
    height, width = inspection.size
    return replace(
        rules,
        label=recall.label,
        description=named(rules, recall.label),
        severity=severity_of(card, recall.label, region, width, height, site.mm_per_pixel),
        probable_causes=recall.causes or (flaw.causes if flaw else ()),
        cited=recall.cited,
        recommended_action=recall.action or (flaw.action if flaw else None) or rules.recommended_action,
        confidence=recall.confidence,
        source="memory",
        similar=similar,
    )


def _task(
    inspection: Inspection, site: Site, card: ProductCard, labels: Taxonomy, seen: _Seen, context: str
) -> LlmTask:
    verdict = inspection.verdict
    height, width = inspection.size
    shown = verdict.regions[:_MOST_SHOWN]
    masks = [_whole(mask, region, height, width) for mask, region in zip(seen.masks, shown, strict=False)]
    cases: dict[str, LlmCase] = {}
    for recall in seen.recalls:
        for case in recall.cases if recall is not None else ():
            cases.setdefault(case.case_id, case)
    return LlmTask(
        product=card.name,
        normal=card.normal,
        taxonomy=tuple(_label_words(card, label, words) for label, words in labels.words.items()),
        score=verdict.score,
        threshold=verdict.thresholds.reject,
        margin=margin_words(verdict.score, verdict),
        regions=tuple(LlmRegion(r, c.attributes) for r, c in zip(verdict.regions, seen.rules, strict=True)),
        pictures=build_pictures(inspection.rgb, shown, masks, nearest(inspection.rgb, site.references)),
        cases=tuple(sorted(cases.values(), key=lambda case: case.distance)[:_MOST_CASES]),
        context=context,
        language=card.language,
        profile=card.prompt_profile,
    )


def _label_words(card: ProductCard, label: str, words: str) -> LabelWords:
    flaw = card.flaw(label)
    return LabelWords(label, words, flaw.causes if flaw else (), (flaw.action if flaw else None) or "")


def nearest(rgb: Rgb, references: Sequence[Rgb]) -> Rgb | None:
    """The reference that looks most like the picture at a glance, or None without one."""
    if not references:
        return None
    seen = thumbnail(rgb)
    return min(references, key=lambda reference: float(np.abs(thumbnail(reference) - seen).mean()))


def _whole(mask: NDArray[np.bool_], region: Region, height: int, width: int) -> NDArray[np.bool_]:
    x, y, w, h = region.box
    whole = np.zeros((height, width), bool)
    whole[y : y + h, x : x + w] = mask
    return whole


def _told(
    inspection: Inspection,
    site: Site,
    card: ProductCard,
    seen: _Seen,
    own: Sequence[Classification],
    answer: LlmAnswer,
) -> Captions:
    """The LLM's words where it gave any; memory's where that was sure; the rules' for the rest."""
    verdict = inspection.verdict
    height, width = inspection.size
    past = _past_inspections(seen.recalls)
    regions = []
    for number, (region, mine, caption) in enumerate(zip(seen.regions, own, answer.regions, strict=True), start=1):
        told = mine
        if mine.source == "memory" or number > _MOST_SHOWN:
            pass
        elif caption is not None:
            severity = severity_of(card, caption.label, region, width, height, site.mm_per_pixel)
            told = replace(_spoken(mine, caption, answer, past), severity=severity)
        else:
            told = _degraded(mine, _unsaid(answer, f"region-{number}"))
        regions.append(told)
    picture = classify_picture(verdict, regions)
    if answer.picture is not None and picture.source != "memory":
        picture = _spoken(picture, answer.picture, answer, past)  # its severity stays that of the gravest region
    elif picture.source == "rules":
        picture = _degraded(picture, _unsaid(answer, "picture"))
    usage = answer.usage
    use = LlmUse(answer.model, usage.tokens_in, usage.tokens_out, usage.calls, answer.flags)
    return Captions(picture, tuple(regions), use)


def _past_inspections(recalls: Sequence[Recall | None]) -> dict[str, str]:
    """The inspections of the cases that the LLM was told of, by case id."""
    return {
        case.case_id: similar.inspection_id
        for recall in recalls
        if recall is not None
        for case, similar in zip(recall.cases, recall.similar, strict=True)
    }


def _spoken(mine: Classification, caption: LlmCaption, answer: LlmAnswer, past: Mapping[str, str]) -> Classification:
    causes = tuple(dict.fromkeys(cause.text for cause in caption.causes))
    cited = (Citation(cause.text, case_id, past[case_id]) for cause in caption.causes for case_id in cause.case_ids)
    return replace(
        mine,
        label=caption.label or UNKNOWN,
        description=ten_words(caption.description),
        probable_causes=causes or mine.probable_causes,
        cited=tuple(dict.fromkeys(cited)) if causes else mine.cited,
        recommended_action=caption.action or mine.recommended_action,
        confidence=caption.confidence,
        source="llm",
        degraded=False,
        fallback_reason=None,
        is_new_type=caption.is_new_type,
        prompt_version=answer.prompt_version,
        suggested_severity=caption.severity or mine.suggested_severity,
    )


def _unsaid(answer: LlmAnswer, place: str) -> str:
    """Why the LLM's answer has no words for a place that it was asked about."""
    contradicts = f"{Reason.CONTRADICTS_VERDICT.value}:{place}" in answer.flags
    return (Reason.CONTRADICTS_VERDICT if contradicts else Reason.EMPTY).value


def _degraded(item: Classification, reason: str) -> Classification:
    return replace(item, degraded=True, fallback_reason=reason)
