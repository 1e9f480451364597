"""A flaw in words without an LLM: from its region's geometry and the pixels under it. Deterministic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.captions.colour import colour_word, contrast_words, hue_word
from service.captions.figures import Figures
from service.captions.place import place_word
from service.captions.products import UNKNOWN, ProductCard
from service.captions.severity import severity_of, worst
from service.types import Attributes, Classification, Decision, Region, Severity, Verdict

MOST_WORDS = 10
NORMAL = "normal"
THIS_IS_NORMAL = "This is normal"
LOOK_AT_IT = "Look at the part and record a review."
_LINE_FROM = 3.5  # elongation
_STRAIGHT, _CURVED = 1 / 8, 1 / 5  # breadth over length up to which, and from which, a line is told to be so
_SPOT_UP_TO = 0.01  # share of the picture


def classify_by_rules(
    card: ProductCard,
    found: Figures,
    region: Region,
    size: tuple[int, int],
    verdict: Verdict,
    *,
    mm_per_pixel: float | None = None,
) -> Classification:
    """One region of a picture of `size` (height, width) in words.

    `found`: what `figures.measure` says of it; `region`: with that area (`figures.as_measured`). The label is `unknown` unless the
    card's `looks` fit exactly one flaw type.
    """
    height, width = size
    scale = mm_per_pixel or card.mm_per_pixel
    shape, colour = shape_word(found, region.area_share), colour_word(found.flaw, found.around)
    place = place_word(region.centroid, width, height)
    label = guess_label(card, shape, colour)
    flaw = card.flaw(label)
    return Classification(
        label=label,
        description=ten_words(_sentence(shape, colour, place, found, scale)),
        severity=severity_of(card, label, region, width, height, scale),
        probable_causes=flaw.causes if flaw else (),
        recommended_action=(flaw.action if flaw else None) or LOOK_AT_IT,
        attributes=Attributes(
            location=place,
            size=_size(found, region, scale),
            shape=shape,
            colour=_colour(colour, found),
            margin=margin_words(region.peak_score, verdict),
        ),
    )


def classify_picture(verdict: Verdict, regions: Sequence[Classification]) -> Classification:
    """The whole picture, from its verdict and its regions' classifications (in the verdict's order, whoever made them).

    "This is normal" exactly when the verdict is `ok`.
    """
    if verdict.decision is Decision.OK:
        return Classification(NORMAL, THIS_IS_NORMAL, Severity.NONE, recommended_action="Nothing to do.")
    if verdict.decision is Decision.UNDECIDABLE:
        why = _whole_reasons("Cannot be judged:", verdict.reasons or ("no reason given",))
        return Classification(UNKNOWN, why, Severity.NONE, recommended_action="Take the picture again.")
    gravest = worst(item.severity for item in regions)
    first = next(item for item in regions if item.severity is gravest)
    if len(regions) == 1:
        return first
    labels = [item.label for item in regions if item.label != UNKNOWN]
    return Classification(
        label=first.label if first.label != UNKNOWN else next(iter(labels), UNKNOWN),
        description=ten_words(f"{len(regions)} flaws; worst: {_without_extent(first.description)}"),
        severity=gravest,
        probable_causes=tuple(dict.fromkeys(cause for item in (first, *regions) for cause in item.probable_causes)),
        recommended_action=first.recommended_action,
        confidence=first.confidence,
        source=first.source,
        degraded=first.degraded,
        fallback_reason=first.fallback_reason,
        is_new_type=first.is_new_type,
        attributes=first.attributes,
        prompt_version=first.prompt_version,
        similar=first.similar,
        cited=tuple(dict.fromkeys(each for item in (first, *regions) for each in item.cited)),
        suggested_severity=_suggested(regions),
    )


def _suggested(regions: Sequence[Classification]) -> Severity | None:
    """How bad the picture would be if the LLM's suggestions held; None where it made none."""
    if all(item.suggested_severity is None for item in regions):
        return None
    return worst(item.suggested_severity or item.severity for item in regions)


def shape_word(found: Figures, share: float) -> str:
    """ "edge" along the picture's border, "line" ("straight line" or "curved line" where clearly so), "spot", or "blotch" (a large
    spot)."""
    if found.elongation >= _LINE_FROM or (found.fill < 0.2 and found.length > 3 * found.area / found.length):
        slender = found.breadth / found.length
        return "straight line" if slender <= _STRAIGHT else "curved line" if slender >= _CURVED else "line"
    if found.border >= 0.5:
        return "edge"
    return "spot" if share <= _SPOT_UP_TO else "blotch"


def guess_label(card: ProductCard, shape: str, colour: str) -> str:
    """The one flaw type whose `looks` fit; `unknown` when none or several do."""
    fitting = [
        flaw.label
        for flaw in card.flaws
        if flaw.looks is not None
        and (not flaw.looks.shapes or not {shape, shape.rpartition(" ")[2]}.isdisjoint(flaw.looks.shapes))
        and (not flaw.looks.colours or colour in flaw.looks.colours)
    ]
    return fitting[0] if len(fitting) == 1 else UNKNOWN


def margin_words(score: float, verdict: Verdict) -> str:
    """How far above the threshold, such as "2.1 x the threshold"; in the review band the review threshold is named."""
    limits = verdict.thresholds
    limit, name = (limits.reject, "threshold") if score > limits.reject else (limits.review, "review threshold")
    if limit <= 0:
        return f"{score - limit:.2g} above the {name}"
    ratio = score / limit
    return f"{ratio:.0f} x the {name}" if ratio >= 10 else f"{ratio:.1f} x the {name}"


def _whole_reasons(beginning: str, reasons: Sequence[str]) -> str:
    """As many of the reasons, from the first on, as ten words hold whole."""
    told = ten_words(f"{beginning} {reasons[0]}")
    for count in range(2, len(reasons) + 1):
        if len((longer := f"{beginning} {'; '.join(reasons[:count])}").split()) <= MOST_WORDS:
            told = longer
    return told


def ten_words(text: str) -> str:
    """The first ten words, without what a cut leaves dangling."""
    words = text.split()
    return " ".join(words) if len(words) <= MOST_WORDS else " ".join(words[:MOST_WORDS]).rstrip(",;:.")


def named(found: Classification, label: str) -> str:
    """The rules' sentence with the flaw's name in place of its looks: "Black thread in the upper left, 38 mm long"."""
    name = " ".join(label.replace("_", " ").split()[:6])
    where = f"{_preposition(found.attributes.location)} the {found.attributes.location}"
    extent = found.description.rpartition(", ")[2] if ", " in found.description else ""
    text = f"{name} {where}"
    if extent and len(f"{text} {extent}".split()) <= MOST_WORDS:
        text = f"{text}, {extent}"
    return ten_words(text[:1].upper() + text[1:])


def _sentence(shape: str, colour: str, place: str, found: Figures, scale: float | None) -> str:
    """Such as "Dark line across the upper left, 38 mm long": at most ten words."""
    if shape == "edge":
        start = f"{colour} flaw at the edge, {place}"
    else:
        preposition = "across" if shape.endswith("line") else _preposition(place)
        start = f"{colour or 'faint'} {shape} {preposition} the {place}"
    text = f"{start.strip()}, {_extent(shape, found, scale)}"
    return text[0].upper() + text[1:]


def _preposition(place: str) -> str:
    return "on" if place in ("left", "right") else "in"


def _extent(shape: str, found: Figures, scale: float | None) -> str:
    word = "long" if shape.endswith("line") or shape == "edge" else "across"
    return f"{_length(found.length, scale)} {word}"


def _length(pixels: float, scale: float | None) -> str:
    if scale is None:
        return f"{pixels:.0f} px"
    mm = pixels * scale
    return f"{mm:.0f} mm" if mm >= 10 else f"{mm:.2g} mm"


def _size(found: Figures, region: Region, scale: float | None) -> str:
    """Such as "134 px (38 mm) x 6 px (1.7 mm), 0.21 % of the picture"."""
    sides = (found.length, found.breadth)
    told = (f"{side:.0f} px" + ("" if scale is None else f" ({_length(side, scale)})") for side in sides)
    return f"{' x '.join(told)}, {100 * region.area_share:.2g} % of the picture"


def _colour(word: str, found: Figures) -> str:
    """Such as "dark red, strong contrast"."""
    told = word or "like its surroundings"
    if word and word not in ("dark", "bright", "grey") and abs(found.flaw[0] - found.around[0]) >= 15:
        told = f"{'bright' if found.flaw[0] > found.around[0] else 'dark'} {word}"
    elif word in ("dark", "bright") and np.hypot(*found.flaw[1:]) >= 20:
        told = f"{word} {hue_word(found.flaw)}"
    return f"{told}, {contrast_words(found.flaw, found.around)}"


def _without_extent(sentence: str) -> str:
    words = sentence.rpartition(", ")[0] or sentence
    return words[:1].lower() + words[1:]
