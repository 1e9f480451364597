"""Connected areas of an anomaly map above the review threshold, in pixels of the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.decision.scale import cell_pixels
from service.types import AnomalyMap, Region, TilePlan

S = TypeVar("S", bound=np.generic)
MOST_REGIONS = 100  # of a picture; mask and score speak for the rest. One that is flawed all over would have thousands
_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)
_NEAR = 3  # cells within which a flaw still colours the features


@dataclass(frozen=True, slots=True)
class _Side:
    """The pixels of some neighbouring cells along one side: the first of each, and the one after its last."""

    first: NDArray[np.intp]
    after: NDArray[np.intp]

    def part(self, cells: slice) -> _Side:
        return _Side(self.first[cells], self.after[cells])

    @property
    def groups(self) -> NDArray[np.intp]:
        """Indices of the cells that begin at a new pixel; those in between share the pixel of the one before."""
        return np.flatnonzero(np.diff(self.first, prepend=-1))

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Pixels of each group."""
        return (self.after - self.first)[self.groups]

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of each group, in pixels."""
        return (self.after + self.first)[self.groups] / 2


@dataclass(frozen=True, slots=True)
class _Part:
    """A connected part of the cell grid: its rows and columns, and which cells of them belong to it."""

    place: tuple[slice, slice]
    member: NDArray[np.bool_]


def find_regions(anomaly_map: AnomalyMap, review: float) -> tuple[Region, ...]:
    """Regions above `review`, highest peak first, at most MOST_REGIONS. Empty exactly when the map's score is not above
    it."""
    sides = _sides(anomaly_map.plan)
    return tuple(_region(anomaly_map, part.member, part.place, sides) for part in _parts(anomaly_map, review))


def region_pixels(anomaly_map: AnomalyMap, review: float) -> Iterator[NDArray[np.bool_]]:
    """bool [h,w] of each region in turn, in the order of `find_regions`: its pixels inside its box."""
    rows, columns = _sides(anomaly_map.plan)
    for part in _parts(anomaly_map, review):
        down, across = rows.part(part.place[0]), columns.part(part.place[1])
        grouped = _grouped(part.member, down, across)
        yield np.repeat(np.repeat(grouped, down.lengths, axis=0), across.lengths, axis=1)


def region_cells(anomaly_map: AnomalyMap, review: float) -> tuple[list[NDArray[np.intp]], NDArray[np.intp]]:
    """Rows and columns of the cells under each region, [n,2] each in the order of `find_regions`, and of those that no region
    is near to, [m,2] (all that are under none, where a region is near to all)."""
    above = _above(anomaly_map, review)
    near = ndimage.binary_dilation(above, _EIGHT_NEIGHBOURS, iterations=_NEAR)
    around = next(cells for cells in (~near, ~above, np.ones_like(above)) if cells.any())
    parts = _parts(anomaly_map, review)
    inside = [np.argwhere(part.member) + [side.start for side in part.place] for part in parts]
    return inside, np.argwhere(around)


def _parts(anomaly_map: AnomalyMap, review: float) -> list[_Part]:
    """The connected parts above `review`, highest peak first, at most MOST_REGIONS."""
    labels, count = ndimage.label(_above(anomaly_map, review), structure=_EIGHT_NEIGHBOURS)
    peaks = np.asarray(ndimage.maximum(anomaly_map.cells, labels, np.arange(1, count + 1)))
    places = ndimage.find_objects(labels)
    chosen = np.argsort(-peaks, kind="stable")[:MOST_REGIONS]
    return [_Part(places[index], labels[places[index]] == index + 1) for index in chosen]


def mask_pixels(anomaly_map: AnomalyMap, review: float) -> NDArray[np.bool_]:
    """bool [height, width]: the pixels of all regions; a region's box and area are read off the same pixels."""
    sides = _sides(anomaly_map.plan)
    return _spread(_grouped(_above(anomaly_map, review), *sides), *sides)


def score_pixels(cells: NDArray[np.float32], plan: TilePlan) -> NDArray[np.float32]:
    """float32 [height, width]: each pixel has its cell's score, the highest where several share it. So the picture's score is
    the largest, and the pixels above a threshold are those of `mask_pixels`."""
    rows, columns = sides = _sides(plan)
    joined = np.maximum.reduceat(np.maximum.reduceat(cells, rows.groups, axis=0), columns.groups, axis=1)
    return _spread(joined, *sides)


def _above(anomaly_map: AnomalyMap, review: float) -> NDArray[np.bool_]:
    above: NDArray[np.bool_] = anomaly_map.cells > np.float64(review)  # compared in float64, as the score is
    return above


def _sides(plan: TilePlan) -> tuple[_Side, _Side]:
    rows = _Side(*cell_pixels(plan.rows, plan.working_height, plan.height))
    return rows, _Side(*cell_pixels(plan.columns, plan.working_width, plan.width))


def _grouped(cells: NDArray[np.bool_], rows: _Side, columns: _Side) -> NDArray[np.bool_]:
    """Cells that share their pixels, joined."""
    joined: NDArray[np.bool_] = np.logical_or.reduceat(cells, rows.groups, axis=0)
    return np.logical_or.reduceat(joined, columns.groups, axis=1)


def _spread(grouped: NDArray[S], rows: _Side, columns: _Side) -> NDArray[S]:
    pixels: NDArray[S] = np.repeat(np.repeat(grouped, rows.lengths, axis=0), columns.lengths, axis=1)
    return pixels


def _region(
    anomaly_map: AnomalyMap, member: NDArray[np.bool_], place: tuple[slice, slice], sides: tuple[_Side, _Side]
) -> Region:
    """The region of the cells `member` at `place`."""
    plan = anomaly_map.plan
    rows, columns = sides[0].part(place[0]), sides[1].part(place[1])
    values = np.where(member, anomaly_map.cells[place], -np.inf)
    areas = np.outer(rows.lengths, columns.lengths) * _grouped(member, rows, columns)
    area = int(areas.sum())
    top, left = int(rows.first[0]), int(columns.first[0])
    return Region(
        box=(left, top, int(columns.after[-1]) - left, int(rows.after[-1]) - top),
        area_px=area,
        area_share=area / (plan.width * plan.height),
        peak_score=float(values.max()),
        centroid=(
            float(areas.sum(axis=0) @ columns.centres) / area,
            float(areas.sum(axis=1) @ rows.centres) / area,
        ),
        kind=_kind(anomaly_map, place, values),
    )


def _kind(anomaly_map: AnomalyMap, place: tuple[slice, slice], values: NDArray[np.float32]) -> str:
    """Which of the two maps speaks louder at the region's peak."""
    if anomaly_map.logical is None:
        return "structural"
    peak = np.unravel_index(int(values.argmax()), values.shape)
    louder = anomaly_map.logical[place][peak] > anomaly_map.structural[place][peak]
    return "logical" if louder else "structural"
