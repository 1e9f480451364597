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
    logical_roi_cells,
    picture_map,
    relative,
    roi_cells,
    stitch,
)
from service.image.prepare import PrepareRecipe, plan_tiles, prepare
from service.training.flaws import at_size, paint_flaw
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

    `shown`: the picture itself, uint8 [H,W,3], kept of the few that people are shown while the network learns. `roi`: bool [h,w] of
    any size, where the picture is looked at; None: everywhere.
    """

    plan: TilePlan
    windows: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    shown: NDArray[np.uint8] | None = None
    roi: NDArray[np.bool_] | None = None

    @property
    def looked_at(self) -> NDArray[np.bool_] | None:
        """bool [rows,columns]: the region of interest on the cells of the structural map."""
        return None if self.roi is None else roi_cells(self.roi, self.plan)


class Seen(NamedTuple):
    """A raw or scaled map float32 [rows,columns], and which of its cells are looked at, bool [rows,columns]; None: all."""

    cells: NDArray[np.float32]
    looked_at: NDArray[np.bool_] | None = None

    def ring(self, distance: int) -> NDArray[np.float32]:
        """float32 [n]: the cells so far from the border that are looked at."""
        there = border_distance(*self.cells.shape) == distance
        found: NDArray[np.float32] = self.cells[there if self.looked_at is None else there & self.looked_at]
        return found


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
    to be relative to a picture's own level, where those of good pictures differ. `roi`: bool [h,w] of any size, where pictures are
    looked at: flaws are painted there, and nothing else counts."""

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
        roi: NDArray[np.bool_] | None = None,
    ) -> None:
        self.min_flaw_px = min_flaw_px
        self.roi = roi
        self.by_level = by_level
        self.local: LocalScale = Border()
        self.examples: list[Example] = []
        self.samples: list[Sample] = []  # of the last `score`
        for index, rgb in enumerate(pictures):
            plan = plan_tiles(rgb.shape[1], rgb.shape[0], recipe, global_map=global_map)
            room = window_limit - sum(example.plan.windows for example in self.examples)
            if index > 1 and room < plan.windows * (1 + flaws_each):
                break
            self.examples.append(Example(plan, prepare(rgb, plan), None, rgb if index < _SHOWN else None, roi))
            for flaw in range(flaws_each):
                painted, mask = paint_flaw(rgb, np.random.default_rng((seed, index, flaw)), roi)
                shown = painted if index < _SHOWN and flaw == 0 else None
                self.examples.append(Example(plan, prepare(painted, plan), mask, shown, roi))

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
            Sample(each.shown, self._mapped(each, maps), each.mask is not None)
            for each, maps in zip(self.examples, scaled, strict=True)
            if each.shown is not None
        ]
        return self.separation(scaled).mean

    def _mapped(self, example: Example, maps: WindowMaps) -> AnomalyMap:
        return picture_map(maps, example.plan, self.min_flaw_px, self.roi, self.local)

    def separation_of(self, runner: Runner) -> Separation:
        """The same for any way of running the finished network (a numerical form in ONNX Runtime)."""
        return self.separation([runner(example.windows) for example in self.examples])

    def separation(self, maps: Sequence[WindowMaps]) -> Separation:
        """Of the scaled maps of all examples."""
        pictures = [self._mapped(example, answer) for example, answer in zip(self.examples, maps, strict=True)]
        scores = np.array([picture.score for picture in pictures])
        flawed = np.array([example.mask is not None for example in self.examples])
        pixel = []
        for picture, example in zip(pictures, self.examples, strict=True):
            if example.mask is not None and example.mask.any() and not example.mask.all():
                thinned = full_size(picture.everywhere, picture.plan)[::2, ::2]
                mask = example.mask[::2, ::2]
                if self.roi is not None:
                    there = at_size(self.roi, *example.mask.shape)[::2, ::2]
                    thinned, mask = thinned[there], mask[there]
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
        low[index], high[index] = np.quantile(np.concatenate([inside(*seen) for seen in pictures]), (Q_A, Q_B))
        high[index] = max(high[index], low[index] + 1e-6)
    return low, high


def level_of(pictures: Sequence[Seen], offset: float) -> Level | None:
    """How the structural maps of untouched normals follow the pictures' own levels: the exponent is the slope
    of the logarithm of each picture's high distances over that of its median one. None where they do not, or the levels hardly
    differ, or too few pictures are there to tell. `offset`: what is to be added to a map to get distances."""
    distances = [inside(*seen) + np.float32(offset) for seen in pictures]
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
        maps[0] = [Seen(relative(seen.cells, level, seen.looked_at), seen.looked_at) for seen in maps[0]]
    for pictures in maps:
        rings = []
        for ring in range(BORDER_CELLS):
            if not any((border_distance(*seen.cells.shape) == ring).any() for seen in pictures):
                break
            values = np.concatenate([seen.ring(ring) for seen in pictures])
            if not len(values):  # none of it is looked at
                rings.append((0.0, 0.1))
                continue
            low, high = (float(value) for value in np.quantile(values, (Q_A, Q_B)))
            low = max(low, 0.0)
            rings.append((round(low, 5), round(max(high, low + 0.1), 5)))
        sides.append(tuple(rings))
    return Border(sides[0], sides[1] if len(sides) > 1 else (), level)


def _untouched(maps: Sequence[WindowMaps], examples: Sequence[Example]) -> list[list[Seen]]:
    """The maps of the untouched normals on their own cells: all structural ones, then all logical ones if there are."""
    clean = [pair for pair in zip(maps, examples, strict=True) if pair[1].mask is None]
    found = [[Seen(stitch(answer.structural, example.plan), example.looked_at) for answer, example in clean]]
    if clean[0][0].logical is not None:
        found.append(
            [
                Seen(
                    logical_cells(answer.logical, example.plan),
                    None if example.roi is None else logical_roi_cells(example.roi, example.plan),
                )
                for answer, example in clean
                if answer.logical is not None
            ]
        )
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
