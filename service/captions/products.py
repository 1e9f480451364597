"""Product cards: what an object is called, what is normal on it, its known flaws, how severe they are and who may see it.

One YAML file a product, `<products_dir>/<product>.yaml`, read once: a client's product name never becomes a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from service.captions.place import PLACES
from service.captions.yaml_model import read_yaml
from service.errors import SettingsError
from service.types import Severity

UNKNOWN = "unknown"
RESERVED = frozenset({UNKNOWN, "normal", "ok", "none"})  # words that say something else than which flaw it is

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=400, pattern=r"^[^\r\n\t]*$")]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60, pattern=r"^[^\r\n\t]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Shape = Literal["spot", "line", "straight line", "curved line", "blotch", "edge"]  # "line": any of the three
Colour = Literal[
    "dark", "bright", "grey", "red", "orange", "brown", "yellow", "green", "cyan", "blue", "purple", "pink"
]
FlawSeverity = Literal[Severity.MINOR, Severity.MAJOR, Severity.CRITICAL]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Looks(_Model):
    """By what the rules may name a flaw without having seen one: its shapes and colours, as they say them. Empty: any."""

    shapes: tuple[Shape, ...] = ()
    colours: tuple[Colour, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Looks:
        if not (self.shapes or self.colours):
            raise ValueError("needs shapes or colours")
        return self


class FlawType(_Model):
    """A known type of flaw. `words`: what it looks like, for the LLM; `severity`: where no rule of the card holds."""

    label: Label
    words: Line
    causes: tuple[Line, ...] = ()
    action: Line | None = None
    severity: FlawSeverity | None = None
    looks: Looks | None = None

    @field_validator("label")
    @classmethod
    def _free(cls, label: str) -> str:
        if label.casefold() in RESERVED:
            raise ValueError(f"{label!r} is reserved")
        return label


class SeverityRule(_Model):
    """Holds when every condition given holds; one must be given.

    `labels`: the flaw's label is one of them. `share`: at least this share of the picture. `area_mm2`: at least this area; does not
    hold while the scale is unknown. `places`: the centroid lies in one of them (3x3 grid words). `box`: the flaw's box touches
    (x0, y0, x1, y1), in shares of the picture's width and height.
    """

    severity: FlawSeverity
    labels: tuple[Label, ...] = ()
    share: Share | None = None
    area_mm2: float | None = Field(None, gt=0)
    places: tuple[Literal[PLACES], ...] = ()  # type: ignore[valid-type]  # the words of place.py are their one home
    box: tuple[Share, Share, Share, Share] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> SeverityRule:
        if not self.model_fields_set - {"severity"}:
            raise ValueError(
                "needs a condition: labels, share, area_mm2, places or box; use `default` for all the rest"
            )
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("box is x0, y0, x1, y1 with x0 < x1 and y0 < y1, in shares of the picture")
        return self


class SeverityPolicy(_Model):
    """The first rule that holds decides; then the flaw type's own severity; then `default`."""

    rules: tuple[SeverityRule, ...] = ()
    default: FlawSeverity = Severity.MAJOR


class ProductCard(_Model):
    """What the service knows of a product. `may_leave`: whether its pictures may go to an LLM; `mm_per_pixel`: scale of its
    pictures, where all are taken alike; `language`: ISO 639-1 code of the words asked of the LLM."""

    product: Label
    name: Line
    normal: Line = "The part looks like the normal reference picture."
    flaws: tuple[FlawType, ...] = ()
    severity: SeverityPolicy = SeverityPolicy()
    may_leave: bool = Field(False, strict=True)
    mm_per_pixel: float | None = Field(None, gt=0)
    prompt_profile: Literal["default", "matlab"] = "default"
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")] = "en"

    @model_validator(mode="after")
    def _labels_agree(self) -> ProductCard:
        known = [flaw.label for flaw in self.flaws]
        folded = [label.casefold() for label in known]
        if twice := sorted({label for label in known if folded.count(label.casefold()) > 1}):
            raise ValueError(f"labels given twice: {', '.join(twice)}")
        allowed = {*known, UNKNOWN}
        if strange := sorted({label for rule in self.severity.rules for label in rule.labels} - allowed):
            raise ValueError(f"severity rules name labels that no flaw has: {', '.join(strange)}")
        return self

    def flaw(self, label: str) -> FlawType | None:
        """The flaw type of that label, None for `unknown` and for labels accepted since."""
        return next((flaw for flaw in self.flaws if flaw.label == label), None)


def folded(label: str) -> str:
    """What two spellings of one label have in common: case, and what stands between words, are left out."""
    return " ".join(re.split(r"[\s_-]+", label.casefold().strip(" .")))


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The labels that answers may use, with what each means ("" for one accepted by a review); `unknown` is the last."""

    words: dict[str, str]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.words)

    def __contains__(self, label: object) -> bool:
        return label in self.words


def taxonomy(card: ProductCard, accepted: Iterable[str] = ()) -> Taxonomy:
    """The card's labels, then those that a person's review has `accepted` for this product, then `unknown`."""
    words = {flaw.label: flaw.words for flaw in card.flaws}
    taken = {folded(label) for label in words} | RESERVED
    for label in accepted:
        if folded(label) not in taken:
            words[label] = ""
            taken.add(folded(label))
    return Taxonomy({**words, UNKNOWN: "none of these, or it cannot be told"})


@dataclass(frozen=True, slots=True)
class Products:
    """The cards of all products."""

    cards: dict[str, ProductCard]

    def card(self, product: str) -> ProductCard:
        """The product's card; for one without, a card that knows no flaw and keeps its pictures in the house."""
        found = self.cards.get(product)
        if found is not None:
            return found
        name = " ".join(product.replace("-", " ").replace("_", " ").split())[:60]
        return ProductCard(product=name or UNKNOWN, name=name or "part")


def load_products(directory: Path) -> Products:
    """All `<product>.yaml` in `directory`; none when there is no such folder.

    Raises SettingsError naming file, line and field of what is wrong.
    """
    cards = {}
    for path in sorted(directory.glob("*.yaml")):
        card = load_card(path)
        cards[card.product] = card
    return Products(cards)


def load_card(path: Path) -> ProductCard:
    """The card in one file, whose name must be the product's. Raises SettingsError naming file, line and field."""
    card = read_yaml(path, ProductCard)
    if card.product != path.stem:
        raise SettingsError(f"{path}: product is {card.product!r}, but the file's name says {path.stem!r}")
    return card
