"""What is normal place by place, for parts that always lie alike (service/types.py: Layout).

A student and an autoencoder are less sure at edges, glints and print than on plain ground, on every good part in the same
places. One threshold for the whole map must lie above all of them, and what is missing on plain ground stays below it.
Where parts lie alike, each place can be measured by what good parts show there (docs/decisions/0023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.decision.scale import picture_map
from service.image.prepare import PrepareRecipe, plan_tiles, prepare
from service.training.network import Detector, mixed_precision
from service.training.select import Q_A, Q_B, Selection, run_torch
from service.types import Layout, LayoutChoice

Picture = NDArray[np.uint8]
Say = Callable[[str], None]
FEWEST, _MOST = 20, 80  # good parts that it is learned from
_NEAR = 3  # cells: parts never lie exactly alike, so the most uncertain neighbour counts
_ALIKE = 0.5  # correlation of what two halves of the parts show, from which they lie alike
_LOSS = 0.01  # in telling painted flaws, which are seldom what this is for


def choose_layout(
    choice: LayoutChoice,
    detector: Detector,
    pictures: Sequence[Picture],
    recipe: PrepareRecipe,
    chooser: Selection,
    say: Say,
) -> Layout | None:
    """The layout by training `pictures` uint8 [H,W,3]; None where parts do not lie alike or painted flaws are told worse.

    `chooser` has scored the detector, whose quantiles are set.
    """
    if choice == "free" or not have_one_grid([(rgb.shape[1], rgb.shape[0]) for rgb in pictures], recipe):
        return None
    maps = _maps(detector, pictures[:_MOST], recipe, chooser.min_flaw_px)
    layout = _learned(maps, detector, chooser)
    if choice == "fixed":
        return layout
    alike = _agreement(maps, _looked_at(chooser, maps.shape[2:]))
    if alike < _ALIKE:
        return None
    before = chooser.separation_of(lambda windows: run_torch(detector, windows)).mean
    free, chooser.local = chooser.local, layout
    after = chooser.separation_of(lambda windows: run_torch(detector, windows)).mean
    chooser.local = free
    kept = after >= before - _LOSS
    say(
        f"parts lie alike (agreement {alike:.2f} of 1): measured by what is normal {'place by place' if kept else 'everywhere'}; "
        f"telling painted flaws (1 is perfect): {after:.3f} place by place, {before:.3f} everywhere"
    )
    return layout if kept else None


def have_one_grid(sizes: Sequence[tuple[int, int]], recipe: PrepareRecipe) -> bool:
    """Whether pictures of these widths and heights are enough to learn a layout from, and have the same cells."""
    plans = [plan_tiles(*size, recipe, global_map=False) for size in set(sizes)]
    return len(sizes) >= FEWEST and len({(plan.rows, plan.columns) for plan in plans}) == 1


def _maps(
    detector: Detector, pictures: Sequence[Picture], recipe: PrepareRecipe, min_flaw_px: float
) -> NDArray[np.float32]:
    """The filtered maps of the pictures, float32 [n,maps,rows,columns]."""
    found = []
    for rgb in pictures:
        plan = plan_tiles(rgb.shape[1], rgb.shape[0], recipe, global_map=detector.autoencoder is not None)
        with mixed_precision(detector.mean.device):
            mapped = picture_map(run_torch(detector, prepare(rgb, plan)), plan, min_flaw_px)
        found.append([mapped.structural] if mapped.logical is None else [mapped.structural, mapped.logical])
    return np.array(found, np.float32)


def _learned(maps: NDArray[np.float32], detector: Detector, chooser: Selection) -> Layout:
    """Mean and deviation at each place, in such units that the quantiles of held-out normals are 0 and 0.1, as without."""
    near = (1, _NEAR, _NEAR)
    typical = ndimage.maximum_filter(maps.mean(axis=0), near, mode="nearest")
    spread = ndimage.maximum_filter(maps.std(axis=0), near, mode="nearest")
    there = _looked_at(chooser, spread.shape[1:])
    spread += np.median(spread[:, there], axis=1)[:, None, None] + np.float32(1e-4)  # a calm place raises no noise
    spread /= np.median(spread[:, there], axis=1)[:, None, None]  # the maps keep their weights beside each other
    raw = Layout(typical, spread)
    seen = [
        picture_map(run_torch(detector, each.windows), each.plan, chooser.min_flaw_px, chooser.roi, raw).cells.ravel()
        for each in chooser.examples
        if each.mask is None
    ]
    values = np.concatenate(seen)
    low, high = np.quantile(values[np.isfinite(values)], (Q_A, Q_B))  # what is not looked at is -inf
    rounded = (typical + low * spread).astype(np.float16), (spread * max(high - low, 1e-5) / 0.1).astype(np.float16)
    return Layout(*(part.astype(np.float32) for part in rounded))  # as the bundle keeps it


def _looked_at(chooser: Selection, cells: tuple[int, ...]) -> NDArray[np.bool_]:
    """bool [rows,columns]: where parts are looked at; all pictures have the same cells."""
    found = chooser.examples[0].looked_at
    return np.ones(cells, bool) if found is None else found


def _agreement(maps: NDArray[np.float32], there: NDArray[np.bool_]) -> float:
    """Correlation of the mean maps of every second picture with those of the others, -1..1; the better map's. `there`: bool
    [rows,columns], where parts are looked at."""
    halves = [ndimage.gaussian_filter(maps[start::2].mean(axis=0), (0, 1, 1)) for start in (0, 1)]
    each = [np.corrcoef(one[there], other[there])[0, 1] for one, other in zip(*halves, strict=True)]
    return float(np.nan_to_num(max(each)))
