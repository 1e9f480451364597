"""The directions of the teacher-student difference along which flaws stand out from what the student never learns.

EfficientAD's structural map is the mean square of all 384 channels of that difference. On held-out normals it is not zero,
and it is anything but round: a few directions carry most of it, and flaws hardly differ from it there. Fisher's linear
discriminant between the differences at flaws painted on held-out normals and those at untouched places gives the
directions in which a flaw raises the square most; low-variance directions are often such (Rippel et al., arXiv 2005.14140).
The map is then the mean square along the leading ones, each in units of its own spread on normals. It is linear, a layer
of 384 x 64 weights, and costs nothing to speak of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from service.decision.scale import BORDER_CELLS, border_distance, stitch_features
from service.training.network import TEACHER_CHANNELS, Detector, mixed_precision
from service.training.select import Example, Selection

_SHRINK = 0.03  # of the mean variance: the smallest ones are noise, and known from few pictures
_COVERED = 0.25  # share of a cell's own pixels from which it counts as flawed
_BATCH = 4  # windows


def look_along(detector: Detector, count: int, seek: Selection, judge: Selection) -> str:
    """Let the structural map look along the `count` directions found in `seek`, unless the flaws of `judge` are told no
    better from its untouched pictures then. Returns what came of it, for a person."""
    with mixed_precision(detector.mean.device):
        before = judge.score(detector)
    try:
        detector.directions = discriminant(detector, seek.examples, count)
    except ValueError as error:  # every painted flaw is smaller than a cell
        return f"all {TEACHER_CHANNELS} features are used: {error}"
    with mixed_precision(detector.mean.device):
        after = judge.score(detector)
    if after < before:
        detector.directions = None
    used = f"all {TEACHER_CHANNELS}" if detector.directions is None else f"the {count}"
    return (
        f"telling painted flaws from good parts (1 is perfect): {after:.3f} with the {count} most telling features, "
        f"{before:.3f} with all {TEACHER_CHANNELS}; {used} are used"
    )


def discriminant(detector: Detector, examples: Sequence[Example], count: int) -> Tensor:
    """float32 [count,384]: the leading directions, best first, of unit spread on the untouched `examples`.

    Raises ValueError without an untouched and a painted example.
    """
    normal, flawed = _Moment(), _Moment()
    for example in examples:
        cells = _differences(detector, example)
        inner = border_distance(*cells.shape[:2]) >= BORDER_CELLS  # the border's own noise is not the part's
        if (looked_at := example.looked_at) is not None:
            inner &= looked_at
        if example.mask is None:
            normal.add(cells[inner])
        else:
            size = (cells.shape[1], cells.shape[0])
            share = np.asarray(Image.fromarray(example.mask).convert("L").resize(size, Image.Resampling.BOX)) / 255
            flawed.add(cells[inner & (share > _COVERED)])
    if not normal.count or not flawed.count:
        raise ValueError(f"no {'painted' if normal.count else 'untouched'} cells")
    noise, signal = normal.mean(), flawed.mean()
    floor = _SHRINK * noise.diagonal().mean() * torch.eye(TEACHER_CHANNELS, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(noise + floor)
    white = vectors / values.sqrt()
    _, turns = torch.linalg.eigh(white.T @ (signal + floor) @ white)  # ascending
    leading: Tensor = (white @ turns[:, -count:].flip(1)).T.float().contiguous()
    return leading


class _Moment:
    """Second moment [384,384] of differences, float64."""

    def __init__(self) -> None:
        self.sum = torch.zeros(TEACHER_CHANNELS, TEACHER_CHANNELS, dtype=torch.float64)
        self.count = 0

    def add(self, cells: np.ndarray[tuple[int, int], np.dtype[np.float16]]) -> None:
        values = torch.from_numpy(cells).float()
        self.sum += (values.T @ values).double()
        self.count += len(values)

    def mean(self) -> Tensor:
        return self.sum / self.count


@torch.no_grad()
def _differences(detector: Detector, example: Example) -> np.ndarray[tuple[int, int, int], np.dtype[np.float16]]:
    """float16 [rows,columns,384]: the difference on the picture's own cells."""
    tiles = example.windows[: len(example.plan.tiles)]
    device = detector.mean.device
    with mixed_precision(device):
        parts = [
            detector.difference(torch.from_numpy(tiles[start : start + _BATCH]).to(device)).half().cpu()
            for start in range(0, len(tiles), _BATCH)
        ]
    return stitch_features(torch.cat(parts).numpy(), example.plan)
