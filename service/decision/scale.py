"""Windows' maps -> one picture's anomaly map. The only place that does this, for training, evaluation and serving.

Stitch the windows' cells (no blending: they are exact), take them relative to the picture's own level where good pictures
differ in it (docs/decisions/0028), scale those at the border by their own quantiles, resize the
logical map of the shrunk whole onto them, take the local mean over the smallest flaw that counts, and average the two (paper
section 3.4); where parts always lie alike, each is scaled place by place before that. Nothing is clamped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.image.prepare import CELLS, CONTEXT, STRIDE, whole_cells
from service.types import AnomalyMap, Border, Layout, Level, LocalScale, TilePlan, WindowMaps

FloatMap = NDArray[np.float32]
BORDER_CELLS = CONTEXT // STRIDE  # cells nearer to the border see some of the reflected context
_Places = NDArray[np.floating[Any]]


def picture_map(
    maps: WindowMaps,
    plan: TilePlan,
    min_flaw_px: float,
    roi: NDArray[np.bool_] | None = None,
    local: LocalScale | None = None,
) -> AnomalyMap:
    """The picture's AnomalyMap from its windows' maps, in the order of `prepare`.

    `min_flaw_px`: side of the smallest flaw that counts, in px of the picture. `roi`: the region of interest,
    bool [h,w] of any size; cells outside become -inf. `local`: the scale of the border or of each place, if it was calibrated.
    Raises ValueError when the plan has another number of windows.
    """
    if len(maps.structural) != plan.windows:
        raise ValueError(f"plan has {plan.windows} windows, network answered {len(maps.structural)}")
    width = min_flaw_px * plan.working_width / plan.width / STRIDE
    border = local if isinstance(local, Border) else Border()
    looked_at = None if roi is None else roi_cells(roi, plan)
    cells = stitch(maps.structural, plan)
    if border.level is not None:
        cells = relative(cells, border.level, looked_at)
    structural = local_mean(levelled(cells, border.structural), width)
    logical = None
    if maps.logical is not None:
        logical = local_mean(_logical(maps.logical, plan, border), width)
    if isinstance(local, Layout):
        structural = _placed(structural, local, 0)
        logical = None if logical is None else _placed(logical, local, 1)
    cells = structural if logical is None else (structural + logical) / np.float32(2)
    if looked_at is not None:
        cells = np.where(looked_at, cells, np.float32(-np.inf))
    return AnomalyMap(cells=cells, structural=structural, logical=logical, plan=plan)


def stitch(windows: FloatMap, plan: TilePlan) -> FloatMap:
    """float32 [rows, columns] from the tiles' maps float32 [>=len(tiles),56,56]; cells beyond the picture fall away."""
    down, across = plan.tiles[-1].row + 1, plan.tiles[-1].column + 1
    grid = windows[: len(plan.tiles)].reshape(down, across, CELLS, CELLS).swapaxes(1, 2)
    return np.ascontiguousarray(grid.reshape(down * CELLS, across * CELLS)[: plan.rows, : plan.columns])


def stitch_features(windows: NDArray[np.float16], plan: TilePlan) -> NDArray[np.float16]:
    """float16 [rows, columns, C] from the tiles' teacher features float16 [>=len(tiles),C,56,56]."""
    down, across = plan.tiles[-1].row + 1, plan.tiles[-1].column + 1
    channels = windows.shape[1]
    grid = windows[: len(plan.tiles)].reshape(down, across, channels, CELLS, CELLS).transpose(0, 3, 1, 4, 2)
    return grid.reshape(down * CELLS, across * CELLS, channels)[: plan.rows, : plan.columns]


def features_at(windows: NDArray[np.float16], plan: TilePlan, places: NDArray[np.intp]) -> NDArray[np.float16]:
    """float16 [k,C]: what `stitch_features` gives at `places` [k,2], rows and columns of cells, without stitching the rest."""
    rows, columns = places.T
    window = rows // CELLS * (plan.tiles[-1].column + 1) + columns // CELLS
    within = rows % CELLS * CELLS + columns % CELLS
    found = np.empty((len(places), windows.shape[1]), np.float16)
    for index in np.unique(window):
        there = window == index
        found[there] = windows[index].reshape(-1, CELLS * CELLS)[:, within[there]].T
    return found


def border_distance(rows: int, columns: int) -> NDArray[np.intp]:
    """Each cell's distance from the nearest border of its map in cells, [rows, columns], 0 for the outermost."""
    down, across = (np.minimum(np.arange(side), np.arange(side)[::-1]) for side in (rows, columns))
    return np.minimum(down[:, None], across)


def inside(cells: FloatMap, looked_at: NDArray[np.bool_] | None = None) -> FloatMap:
    """float32 [n]: the values of the cells that see nothing but the part, within `looked_at` [rows, columns]; of all cells
    where there are none."""
    inner = border_distance(*cells.shape) >= BORDER_CELLS
    if looked_at is not None:
        inner &= looked_at
    return cells[inner] if inner.any() else cells.ravel()


def relative(cells: FloatMap, level: Level, looked_at: NDArray[np.bool_] | None = None) -> FloatMap:
    """The structural map [rows, columns] relative to the picture's own level.

    That is bounded by the levels of good pictures: a picture all of which is strange is no calm one.
    """
    distance = cells + np.float32(level.offset)
    own = np.clip(np.median(inside(distance, looked_at)), level.lowest, level.highest)
    distance /= np.float32((own / level.typical) ** level.exponent)
    return np.asarray(np.float32(0.1) * (distance - np.float32(level.low)) / np.float32(level.high - level.low))


def levelled(cells: FloatMap, rings: tuple[tuple[float, float], ...]) -> FloatMap:
    """The map with each ring of cells from the border inwards scaled so that its own `(low, high)` become 0 and 0.1.

    What the student makes of reflected context is less sure than what it makes of the part, on normal pictures too.
    """
    if not rings:
        return cells
    distance = border_distance(*cells.shape)
    result = cells.copy()
    for ring, (low, high) in enumerate(rings):
        there = distance == ring
        result[there] = np.float32(0.1) * (cells[there] - np.float32(low)) / np.float32(high - low)
    return result


def logical_cells(windows: FloatMap, plan: TilePlan) -> FloatMap:
    """The logical map as the network gives it: of the shrunk whole on its own cells, or of the only tile."""
    if not plan.whole_width:
        return stitch(windows, plan)
    rows, columns = whole_cells(plan)
    return windows[-1, :rows, :columns]


def _logical(windows: FloatMap, plan: TilePlan, border: Border) -> FloatMap:
    """The logical map on the picture's cell grid."""
    cells = levelled(logical_cells(windows, plan), border.logical)
    if not plan.whole_width:
        return cells
    rows, columns = cells.shape
    down = interpolation(np.arange(plan.rows) * (plan.whole_height / plan.working_height), rows)
    across = interpolation(np.arange(plan.columns) * (plan.whole_width / plan.working_width), columns)
    return np.asarray(down @ cells @ across.T, np.float32)


def _placed(cells: FloatMap, layout: Layout, index: int) -> FloatMap:
    """The filtered map place by place. A picture of a little another size has its places between those of the layout."""
    typical, spread = (_onto(part[index], *cells.shape) for part in (layout.typical, layout.spread))
    return np.asarray((cells - typical) / spread, np.float32)


def _onto(grid: FloatMap, rows: int, columns: int) -> FloatMap:
    """The grid resized to `rows` and `columns`, its corners on theirs."""
    if grid.shape == (rows, columns):
        return grid
    down, across = (
        interpolation(np.linspace(0, sources - 1, targets), sources)
        for sources, targets in zip(grid.shape, (rows, columns), strict=True)
    )
    return np.asarray(down @ grid @ across.T, np.float32)


def interpolation(places: _Places, sources: int) -> FloatMap:
    """float32 [len(places), sources]: linear interpolation weights at real source places, constant beyond the ends."""
    places = np.clip(places, 0, sources - 1)
    low = np.minimum(places.astype(int), max(sources - 2, 0))
    weights = np.zeros((len(places), sources), np.float32)
    targets = np.arange(len(places))
    weights[targets, low] = 1 - (places - low)
    if sources > 1:
        weights[targets, low + 1] = places - low
    return weights


def local_mean(cells: FloatMap, width: float) -> FloatMap:
    """Mean over a square of `width` cells (any real number; up to one cell leaves the map as it is).

    The square is centred on each cell, its edge cells weighted by the part covered; beyond the border the nearest
    cell counts, so that a flaw at a corner keeps its score.
    """
    if width <= 1:
        return cells
    side = int(np.ceil((width - 1) / 2))
    kernel = np.ones(2 * side + 1, np.float64)
    kernel[0] = kernel[-1] = (width - 1) / 2 - (side - 1)
    kernel /= kernel.sum()
    rows = ndimage.correlate1d(cells, kernel, axis=0, mode="nearest")
    filtered: FloatMap = ndimage.correlate1d(rows, kernel, axis=1, mode="nearest")
    return filtered


def roi_cells(mask: NDArray[np.bool_], plan: TilePlan) -> NDArray[np.bool_]:
    """bool [rows, columns]: where a cell's centre is inside `mask`, bool [H,W] of any size that covers the picture."""
    return _cells_in(mask, (plan.rows, plan.working_height), (plan.columns, plan.working_width))


def logical_roi_cells(mask: NDArray[np.bool_], plan: TilePlan) -> NDArray[np.bool_]:
    """The same on the cells of the logical map as the network gives it (`logical_cells`)."""
    if not plan.whole_width:
        return roi_cells(mask, plan)
    rows, columns = whole_cells(plan)
    return _cells_in(mask, (rows, plan.whole_height), (columns, plan.whole_width))


def _cells_in(mask: NDArray[np.bool_], down: tuple[int, int], across: tuple[int, int]) -> NDArray[np.bool_]:
    """Which cells' centres lie inside the mask; of each side, how many cells it has and the px that they are taken of."""
    rows, columns = (
        np.minimum(((np.arange(cells) * STRIDE + 0.5) * side / pixels).astype(int), side - 1)
        for (cells, pixels), side in zip((down, across), mask.shape, strict=True)
    )
    found: NDArray[np.bool_] = mask[rows][:, columns]
    return found


def cell_pixels(cells: int, working: int, pixels: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First pixel and pixel after the last of each cell along one side, [cells] each; every cell owns at least one pixel.

    A cell's centre is the middle of working pixel 4i, so it owns working pixels 4i-1.5 .. 4i+2.5, rounded. Cells finer
    than a pixel (a small picture enlarged) share the pixel they lie in; else no pixel has two owners.
    """
    edges = (np.arange(cells) * STRIDE - (STRIDE - 1) / 2) * pixels / working
    first = np.clip(np.floor(edges + 0.5), 0, pixels - 1).astype(np.intp)
    after = np.append(np.unique(first)[1:], pixels)
    return first, after[np.searchsorted(np.unique(first), first)]


def full_size(cells: FloatMap, plan: TilePlan) -> FloatMap:
    """The map bilinearly resized to float32 [height, width] of the picture, cell centres at working pixels 4i."""
    down = _pixel_weights(plan.height, plan.rows, plan.working_height)
    across = _pixel_weights(plan.width, plan.columns, plan.working_width)
    return np.asarray(down @ cells @ across.T, np.float32)


def _pixel_weights(pixels: int, cells: int, working: int) -> FloatMap:
    centres = (np.arange(pixels) + 0.5) * working / pixels - 0.5
    return interpolation(centres / STRIDE, cells)
