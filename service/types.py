"""The frozen records that flow from bytes to answer. Arrays inside are read-only by convention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray


class Decision(StrEnum):
    """A verdict's word. `undecidable` means that the picture cannot be judged, not that the part is bad."""

    OK = "ok"
    REVIEW = "review"
    NOT_OK = "not_ok"
    UNDECIDABLE = "undecidable"


@dataclass(frozen=True, slots=True)
class Tile:
    """One 256x256 window of a picture at working resolution, by the grid place of its 56x56 cells."""

    row: int
    column: int


Lighting = Literal["as_is", "even"]  # of pictures: service/image/lighting.py
LightingChoice = Literal["auto", "as_is", "even"]  # at training
LayoutChoice = Literal[
    "auto", "fixed", "free"
]  # at training: whether parts always lie alike (service/training/layout.py)


@dataclass(frozen=True, slots=True)
class TilePlan:
    """How a picture of a given size is cut into windows; known from the picture's header alone.

    `width`, `height`: the picture in pixels. `working_width`, `working_height`: after resizing.
    `rows`, `columns`: the picture's cell grid (one cell every 4 working pixels).
    `whole_width`, `whole_height`: the whole picture shrunk into one window for the logical map; zero when
    the model has no logical map, or when the only tile is itself the whole picture.
    `lighting`: what is done to the picture's light (service/image/lighting.py).
    """

    width: int
    height: int
    working_width: int
    working_height: int
    tiles: tuple[Tile, ...]
    rows: int
    columns: int
    whole_width: int = 0
    whole_height: int = 0
    lighting: Lighting = "as_is"

    @property
    def windows(self) -> int:
        """How many windows the network must run for this picture (the unit of queueing and of the budget)."""
        return len(self.tiles) + (1 if self.whole_width else 0)

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """What the network is asked of each window."""
        return wanted_of(len(self.tiles), bool(self.whole_width))


# of a network, for one window; a network without an autoencoder has the structural map alone
Wanted = Literal["maps", "structural", "logical", "maps and features", "structural and features", "features"]


def wanted_of(tiles: int, whole: bool) -> tuple[Wanted, ...]:
    """What a picture's windows are run for. Only what is read: beside a shrunk whole, tiles have no use for their logical
    map, nor the whole for its structural one."""
    of_a_tile: Wanted = "structural" if whole else "maps"
    of_tiles = (of_a_tile,) * tiles
    return (*of_tiles, "logical") if whole else of_tiles


@dataclass(frozen=True, slots=True)
class WindowMaps:
    """The network's answer to n windows: float32 [n,56,56] maps; `features` float16 [n,C,56,56]. Of a window of which one of
    them was not wanted, it may be 0; where no window wanted it, logical map and features are None."""

    structural: NDArray[np.float32]
    logical: NDArray[np.float32] | None = None
    features: NDArray[np.float16] | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """How a picture's own level takes part in its structural map, where good pictures differ in it, by exposure say: a cell's
    distance is the map's value + `offset`, the level is the median distance, no less than `lowest` and no more than `highest`
    among good pictures, and (distance / (level / typical) ** exponent - low) / (high - low) is what 0.1 is the unit of.
    """

    exponent: float
    offset: float
    typical: float
    lowest: float
    highest: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Border:
    """How the cells that look at reflected context are scaled: by distance from the picture's border, outermost first,
    the values (low, high) of a map that stand for 0 and 0.1 there, as the map's quantiles do inside. `level`: what is done to
    the structural map before, if anything."""

    structural: tuple[tuple[float, float], ...] = ()
    logical: tuple[tuple[float, float], ...] = ()
    level: Level | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What is normal at each place, of parts that always lie alike: float32 [maps,rows,columns], structural and, with the
    autoencoder, logical. A filtered map's cell stands for (cell - typical) / spread there."""

    typical: NDArray[np.float32]
    spread: NDArray[np.float32]


LocalScale = Border | Layout  # of a product's maps: by distance from the border alone, or place by place


@dataclass(frozen=True, slots=True)
class AnomalyMap:
    """A picture's anomaly map on its cell grid, float32 [rows, columns], unclamped.

    `cells` is averaged, filtered to the smallest flaw that counts, and is what score and regions are read from;
    cells outside the region of interest are -inf. `structural` and `logical` are its filtered parts.
    """

    cells: NDArray[np.float32]
    structural: NDArray[np.float32]
    logical: NDArray[np.float32] | None
    plan: TilePlan

    @property
    def everywhere(self) -> NDArray[np.float32]:
        """The cells, those outside the region of interest too."""
        return self.structural if self.logical is None else (self.structural + self.logical) / np.float32(2)

    @property
    def score(self) -> float:
        """The anomaly score: the map's maximum (-inf when the region of interest is empty)."""
        return float(self.cells.max())


@dataclass(frozen=True, slots=True)
class Region:
    """A connected area above the review threshold, in pixels of the picture as displayed."""

    box: tuple[int, int, int, int]
    area_px: int
    area_share: float
    peak_score: float
    centroid: tuple[float, float]
    kind: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Score limits: above `review` a person should look, above `reject` the part is not ok. review <= reject."""

    review: float
    reject: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about one picture, and from what."""

    decision: Decision
    score: float
    thresholds: Thresholds
    p_value: float
    regions: tuple[Region, ...]
    reasons: tuple[str, ...] = ()

    @property
    def is_anomalous(self) -> bool:
        """True exactly when the verdict is `not_ok`."""
        return self.decision is Decision.NOT_OK


@dataclass(frozen=True, slots=True)
class Timings:
    """Where one picture's time went, in milliseconds."""

    decode: float = 0.0
    prepare: float = 0.0
    queue: float = 0.0
    network: float = 0.0
    decide: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model answered, in which numerical form, on which device."""

    name: str
    version: int
    precision: str
    provider: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """One picture's answer. `pixels` gives the decoded picture, for overlays and words; `sha256` is of the bytes received.

    `descriptors` float32 [regions, C], when asked for: the teacher's features averaged under each region of the verdict.
    """

    id: str
    model: ModelIdentity
    sha256: str
    pixels: Callable[[], NDArray[np.uint8]]
    anomaly_map: AnomalyMap
    verdict: Verdict
    timings: Timings
    metadata: dict[str, str] = field(default_factory=dict)
    descriptors: NDArray[np.float32] | None = None

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The picture uint8 [H,W,3], as displayed. It may be decoded only now: not to be asked for on the event loop."""
        return self.pixels()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        return self.anomaly_map.plan.height, self.anomaly_map.plan.width


class Severity(StrEnum):
    """How bad a flaw is, by the product's own policy; `none` for a normal picture."""

    NONE = "none"
    MINOR = "minor"
    MAJOR = "major"
    CRITICAL = "critical"


CaptionSource = Literal["llm", "memory", "rules"]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the map and the pixels say of a flaw, as short English phrases; empty for a normal picture."""

    location: str = ""
    size: str = ""
    shape: str = ""
    colour: str = ""
    margin: str = ""


@dataclass(frozen=True, slots=True)
class SimilarCase:
    """A reviewed past flaw that looks alike. `distance`: cosine distance of the descriptors, 0..2."""

    inspection_id: str
    label: str
    distance: float


@dataclass(frozen=True, slots=True)
class Citation:
    """A reviewed past flaw that a cause rests on: its case, and the inspection where it was reviewed."""

    cause: str
    case_id: str
    inspection_id: str


@dataclass(frozen=True, slots=True)
class Classification:
    """A flaw (or a whole picture) in words. `description` has at most ten words; `confidence` is 0..1.

    `degraded`: the LLM was wanted and did not answer, `fallback_reason` says why. `cited`: what `probable_causes` rest on.
    `suggested_severity`: the LLM's; it decides nothing.
    """

    label: str
    description: str
    severity: Severity
    probable_causes: tuple[str, ...] = ()
    recommended_action: str = ""
    confidence: float | None = None
    source: CaptionSource = "rules"
    degraded: bool = False
    fallback_reason: str | None = None
    is_new_type: bool = False
    attributes: Attributes = field(default_factory=Attributes)
    prompt_version: str | None = None
    similar: tuple[SimilarCase, ...] = ()
    cited: tuple[Citation, ...] = ()
    suggested_severity: Severity | None = None
