"""How well a detector tells painted flaws from untouched held-out normals: chooses checkpoints and numerical forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from service.decision.scale import (
    BORDER_CELLS,
    border_distance,
    full_size,
    inside,
    logical_cells,
    picture_map,
    relative,
    stitch,
)
from service.image.prepare import PrepareRecipe, plan_tiles, prepare
from service.training.flaws import paint_flaw
from service.training.metrics import auroc
from service.training.network import Detector
from service.types import AnomalyMap, Border, Level, LocalScale, TilePlan, WindowMaps

Runner = Callable[[NDArray[np.uint8]], WindowMaps]
Q_A, Q_B = 0.9, 0.995  # paper section 3.4
_HIGH = 0.99  # quantile of a picture's distances that should not follow its level
_FEWEST = 10  # good pictures that show whether it does
_VARIED = 0.15  # standard deviation of the levels' logarithms, from which they differ enough to matter
_FOLLOWS = 0.5  # correlation
_SHOWN = 2  # normals that people are shown, each as it is and with its first painted flaw


@dataclass(frozen=True, slots=True)
class Example:
    """A prepared picture: its plan, windows uint8 [n,256,256,3], and the mask of the flaw painted on it, if any.

    `shown`: the picture itself, uint8 [H,W,3], kept of the few that people are shown while the network learns.
    """

    plan: TilePlan
    windows: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    shown: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture uint8 [H,W,3] that people are shown, its map at the last evaluation, and whether a flaw is painted on it."""

    rgb: NDArray[np.uint8]
    anomaly_map: AnomalyMap
    flawed: bool


class Separation(NamedTuple):
    """How well painted flaws are told from good parts: AUROC of pictures, and the mean over flaws of that of pixels, 0..1."""

    image: float
    pixel: float

    @property
    def mean(self) -> float:
        """Of both."""
        return (self.image + self.pixel) / 2


class Selection:
    """Held-out normals, each as it is and with painted flaws; always the same ones for one seed. `by_level`: whether the map is
    to be relative to a picture's own level, where those of good pictures differ."""

    def __init__(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        recipe: PrepareRecipe,
        *,
        global_map: bool,
        min_flaw_px: float,
        seed: int = 0,
        flaws_each: int = 2,
        window_limit: int = 240,
        by_level: bool = False,
    ) -> None:
        self.min_flaw_px = min_flaw_px
        self.by_level = by_level
        self.local: LocalScale = Border()
        self.examples: list[Example] = []
        self.samples: list[Sample] = []  # of the last `score`
        for index, rgb in enumerate(pictures):
            plan = plan_tiles(rgb.shape[1], rgb.shape[0], recipe, global_map=global_map)
            room = window_limit - sum(example.plan.windows for example in self.examples)
            if index > 1 and room < plan.windows * (1 + flaws_each):
                break
            self.examples.append(Example(plan, prepare(rgb, plan), None, rgb if index < _SHOWN else None))
            for flaw in range(flaws_each):
                painted, mask = paint_flaw(rgb, np.random.default_rng((seed, index, flaw)))
                shown = painted if index < _SHOWN and flaw == 0 else None
                self.examples.append(Example(plan, prepare(painted, plan), mask, shown))

    def score(self, detector: Detector) -> float:
        """Mean of image and pixel AUROC, 0..1, after setting the detector's quantiles, and in `local` the border's and what the
        pictures' levels do, on the untouched normals."""
        with torch.no_grad():
            detector.q_a.zero_()
            detector.q_b.fill_(0.1)
            raw = [run_torch(detector, example.windows) for example in self.examples]
            q_a, q_b = quantiles(raw, self.examples)
            detector.q_a.copy_(torch.from_numpy(q_a))
            detector.q_b.copy_(torch.from_numpy(q_b))
        scaled = [_scaled(maps, q_a, q_b) for maps in raw]
        offset = float(0.1 * q_a[0] / (q_b[0] - q_a[0]))
        self.local = border_of(scaled, self.examples, offset if self.by_level else None)
        self.samples = [
            Sample(each.shown, picture_map(maps, each.plan, self.min_flaw_px, None, self.local), each.mask is not None)
            for each, maps in zip(self.examples, scaled, strict=True)
            if each.shown is not None
        ]
        return self.separation(scaled).mean

    def separation_of(self, runner: Runner) -> Separation:
        """The same for any way of running the finished network (a numerical form in ONNX Runtime)."""
        return self.separation([runner(example.windows) for example in self.examples])

    def separation(self, maps: Sequence[WindowMaps]) -> Separation:
        """Of the scaled maps of all examples."""
        pairs = zip(self.examples, maps, strict=True)
        pictures = [picture_map(answer, example.plan, self.min_flaw_px, None, self.local) for example, answer in pairs]
        scores = np.array([picture.score for picture in pictures])
        flawed = np.array([example.mask is not None for example in self.examples])
        pixel = []
        for picture, example in zip(pictures, self.examples, strict=True):
            if example.mask is not None and example.mask.any() and not example.mask.all():
                thinned = full_size(picture.cells, picture.plan)[::2, ::2]
                mask = example.mask[::2, ::2]
                if mask.any() and not mask.all():
                    pixel.append(auroc(thinned.ravel(), mask.ravel()))
        return Separation(auroc(scores, flawed), float(np.mean(pixel)))


def quantiles(
    maps: Sequence[WindowMaps], examples: Sequence[Example]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """q_a and q_b [2] (structural, logical) of the raw maps of the untouched normals, over the cells that see the part
    alone (paper section 3.4)."""
    low, high = np.zeros(2, np.float32), np.full(2, 0.1, np.float32)
    for index, pictures in enumerate(_untouched(maps, examples)):
        low[index], high[index] = np.quantile(np.concatenate([inside(cells) for cells in pictures]), (Q_A, Q_B))
        high[index] = max(high[index], low[index] + 1e-6)
    return low, high


def level_of(pictures: Sequence[NDArray[np.float32]], offset: float) -> Level | None:
    """How the structural maps [rows,columns] of untouched normals follow the pictures' own levels: the exponent is the slope
    of the logarithm of each picture's high distances over that of its median one. None where they do not, or the levels hardly
    differ, or too few pictures are there to tell. `offset`: what is to be added to a map to get distances."""
    distances = [inside(cells) + np.float32(offset) for cells in pictures]
    levels = np.array([np.median(each) for each in distances])
    if len(pictures) < _FEWEST or levels.min() <= 0 or np.log(levels).std() < _VARIED:
        return None
    highs = np.log([np.quantile(each, _HIGH) for each in distances])
    if np.corrcoef(np.log(levels), highs)[0, 1] < _FOLLOWS:
        return None
    exponent = float(np.clip(np.polyfit(np.log(levels), highs, 1)[0], 0, 1))
    typical = float(np.median(levels))
    even = np.concatenate([each / (own / typical) ** exponent for each, own in zip(distances, levels, strict=True)])
    low, high = np.quantile(even, (Q_A, Q_B))
    figures = (exponent, offset, typical, levels.min(), levels.max(), low, max(high, low + 1e-6))
    return Level(*(round(float(value), 6) for value in figures))


def border_of(scaled: Sequence[WindowMaps], examples: Sequence[Example], offset: float | None = None) -> Border:
    """The same two quantiles of the scaled maps, ring by ring from the border inwards; a ring that is calmer than the
    inside keeps the inside's scale, so that no noise is raised. With an `offset` (`level_of`) the structural ones are taken
    relative to the pictures' levels before, where they follow them."""
    sides = []
    maps = _untouched(scaled, examples)
    level = None if offset is None else level_of(maps[0], offset)
    if level is not None:
        maps[0] = [relative(cells, level) for cells in maps[0]]
    for pictures in maps:
        rings = []
        for ring in range(BORDER_CELLS):
            values = np.concatenate([cells[border_distance(*cells.shape) == ring] for cells in pictures])
            if not len(values):
                break
            low, high = (float(value) for value in np.quantile(values, (Q_A, Q_B)))
            low = max(low, 0.0)
            rings.append((round(low, 5), round(max(high, low + 0.1), 5)))
        sides.append(tuple(rings))
    return Border(sides[0], sides[1] if len(sides) > 1 else (), level)


def _untouched(maps: Sequence[WindowMaps], examples: Sequence[Example]) -> list[list[NDArray[np.float32]]]:
    """The maps of the untouched normals on their own cells: all structural ones, then all logical ones if there are."""
    clean = [pair for pair in zip(maps, examples, strict=True) if pair[1].mask is None]
    found = [[stitch(answer.structural, example.plan) for answer, example in clean]]
    if clean[0][0].logical is not None:
        found.append([logical_cells(a.logical, example.plan) for a, example in clean if a.logical is not None])
    return found


def _scaled(maps: WindowMaps, q_a: NDArray[np.float32], q_b: NDArray[np.float32]) -> WindowMaps:
    scale = np.float32(0.1) / (q_b - q_a)
    logical = None if maps.logical is None else (maps.logical - q_a[1]) * scale[1]
    return WindowMaps((maps.structural - q_a[0]) * scale[0], logical)


@torch.no_grad()
def run_torch(detector: Detector, windows: NDArray[np.uint8], batch: int = 4) -> WindowMaps:
    """The detector's maps of windows uint8 [n,256,256,3] in torch, float32, a few windows at a time."""
    device = detector.mean.device
    answers = [
        [
            part.float().cpu().numpy()
            for part in detector(torch.from_numpy(windows[start : start + batch]).to(device))[:-1]
        ]
        for start in range(0, len(windows), batch)
    ]
    joined = [np.concatenate(parts) for parts in zip(*answers, strict=True)]
    return WindowMaps(joined[0], joined[1] if len(joined) > 1 else None)
