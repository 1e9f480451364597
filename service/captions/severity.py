"""How bad a flaw is, by the product's own policy. The LLM may suggest; this decides."""

from __future__ import annotations

from collections.abc import Iterable

from service.captions.place import place_word
from service.captions.products import ProductCard, SeverityRule
from service.types import Region, Severity

_ORDER = tuple(Severity)  # none, minor, major, critical


def severity_of(
    card: ProductCard, label: str, region: Region, width: int, height: int, mm_per_pixel: float | None = None
) -> Severity:
    """Severity of the flaw `label` in `region` of a picture of `width` x `height` pixels.

    `mm_per_pixel`: the picture's own scale, else the card's, else unknown.
    """
    scale = mm_per_pixel or card.mm_per_pixel
    for rule in card.severity.rules:
        if _holds(rule, label, region, width, height, scale):
            return rule.severity
    flaw = card.flaw(label)
    return (flaw.severity if flaw is not None else None) or card.severity.default


def worst(severities: Iterable[Severity]) -> Severity:
    """The worst of several, `none` of none."""
    return max(severities, key=_ORDER.index, default=Severity.NONE)


def _holds(rule: SeverityRule, label: str, region: Region, width: int, height: int, scale: float | None) -> bool:
    if rule.labels and label not in rule.labels:
        return False
    if rule.share is not None and region.area_share < rule.share:
        return False
    if rule.area_mm2 is not None and (scale is None or region.area_px * scale * scale < rule.area_mm2):
        return False
    if rule.places and place_word(region.centroid, width, height) not in rule.places:
        return False
    return rule.box is None or _touches(region.box, rule.box, width, height)


def _touches(box: tuple[int, int, int, int], zone: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Whether `box` (x, y, w, h) in pixels and `zone` (x0, y0, x1, y1) in shares share more than a border."""
    x, y, w, h = box
    x0, y0, x1, y1 = zone
    return x < x1 * width and x0 * width < x + w and y < y1 * height and y0 * height < y + h
