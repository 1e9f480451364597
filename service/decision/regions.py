"""Connected areas of an anomaly map above the review threshold, in pixels of the picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.decision.scale import cell_edges
from service.types import AnomalyMap, Region

_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


def find_regions(anomaly_map: AnomalyMap, review: float) -> tuple[Region, ...]:
    """Regions above `review`, highest peak first. Empty exactly when the map's score is not above it."""
    above = anomaly_map.cells > np.float64(review)  # compared in float64, as the score is
    labels, count = ndimage.label(above, structure=_EIGHT_NEIGHBOURS)
    places = ndimage.find_objects(labels)
    regions = [_region(anomaly_map, labels, index + 1, places[index]) for index in range(count)]
    return tuple(sorted(regions, key=lambda region: -region.peak_score))


def mask_pixels(anomaly_map: AnomalyMap, review: float) -> NDArray[np.bool_]:
    """bool [height, width]: the pixels of all regions; a region's box and area are read off the same pixels."""
    rows, columns = _edges(anomaly_map)
    above = anomaly_map.cells > np.float64(review)  # compared in float64, as the score is
    mask: NDArray[np.bool_] = np.repeat(np.repeat(above, np.diff(rows), axis=0), np.diff(columns), axis=1)
    return mask


def _edges(anomaly_map: AnomalyMap) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    plan = anomaly_map.plan
    rows = cell_edges(plan.rows, plan.working_height, plan.height)
    return rows, cell_edges(plan.columns, plan.working_width, plan.width)


def _region(anomaly_map: AnomalyMap, labels: NDArray[np.int32], label: int, place: tuple[slice, slice]) -> Region:
    rows, columns = _edges(anomaly_map)
    plan = anomaly_map.plan
    member = labels[place] == label
    values = np.where(member, anomaly_map.cells[place], -np.inf)
    top, bottom = rows[place[0].start], rows[place[0].stop]
    left, right = columns[place[1].start], columns[place[1].stop]
    heights, widths = np.diff(rows)[place[0]], np.diff(columns)[place[1]]
    areas = np.outer(heights, widths) * member
    area = int(areas.sum())
    weight = np.maximum(areas, member * 1e-9)  # a cell finer than a pixel still has a place
    centre_y = (rows[:-1] + rows[1:])[place[0]] / 2
    centre_x = (columns[:-1] + columns[1:])[place[1]] / 2
    return Region(
        box=(int(left), int(top), max(1, int(right - left)), max(1, int(bottom - top))),
        area_px=max(1, area),
        area_share=max(1, area) / (plan.width * plan.height),
        peak_score=float(values.max()),
        centroid=(
            float((weight.sum(axis=0) * centre_x).sum() / weight.sum()),
            float((weight.sum(axis=1) * centre_y).sum() / weight.sum()),
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
