"""Pictures as training sees them: canvases with context, shrunk wholes, and the teacher's features computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.image.prepare import (
    CELLS,
    CONTEXT,
    STRIDE,
    WINDOW,
    PrepareRecipe,
    canvas_of,
    plan_tiles,
    prepare,
    whole_cells,
)
from service.training.memory import available_memory
from service.training.network import TeacherNetwork, mixed_precision, normalise

_CACHE_BYTES = 4_000_000_000
_CACHE_SHARE = 3  # at most a third of the memory that is left
_GRAIN = 128  # px
_BORDERED = 0.25  # share of windows that get a border where the picture has none


@dataclass(frozen=True, slots=True)
class Canvas:
    """One normal picture: `canvas` uint8 [h,w,3] at working resolution with its context, `whole` uint8 [256,256,3], and
    the raw teacher features of the canvas float16 [384,h/4-8,w/4-8], or None where the cache is full.

    `cells` and `whole_cells`: rows and columns that the picture has of them; what lies beyond fills up the last windows,
    mirrored, and serving throws it away.
    """

    canvas: NDArray[np.uint8]
    whole: NDArray[np.uint8]
    features: Tensor | None
    cells: tuple[int, int]
    whole_cells: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows uint8 [n,256,256,3], their raw teacher features float32 [n,384,56,56], and which cells are the picture's own,
    bool [n,56,56]: no loss is to be had from the others."""

    images: Tensor
    features: Tensor
    own: Tensor


class FeatureBank:
    """The training pictures with their teacher features, from which batches of windows are drawn."""

    def __init__(self, pictures: Sequence[NDArray[np.uint8]], recipe: PrepareRecipe, teacher: TeacherNetwork) -> None:
        self.teacher = teacher
        room = _room()
        self.canvases: list[Canvas] = []
        for rgb in pictures:
            plan = plan_tiles(rgb.shape[1], rgb.shape[0], recipe, global_map=True)
            canvas = canvas_of(Image.fromarray(rgb), plan)
            features = None
            size = canvas.shape[0] * canvas.shape[1] // STRIDE**2 * teacher.out_channels * 2
            if size < room or not self.canvases:  # the statistics need one
                features = self._teach_canvas(canvas).half().cpu()
                room -= size
            whole = prepare(rgb, plan)[-1]
            self.canvases.append(Canvas(canvas, whole, features, (plan.rows, plan.columns), whole_cells(plan)))

    @property
    def device(self) -> torch.device:
        """Where the teacher is now: a trained detector, which shares it, is moved to the CPU."""
        return next(self.teacher.parameters()).device

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each teacher channel over the cached pictures, float32 [384] (section 3.1)."""
        count, total, squares = 0, torch.zeros(self.teacher.out_channels), torch.zeros(self.teacher.out_channels)
        for canvas in self.canvases:
            if canvas.features is not None:
                flat = own_features(canvas).float().flatten(1)
                count, total, squares = count + flat.shape[1], total + flat.sum(1), squares + flat.square().sum(1)
        mean = total / count
        return mean, (squares / count - mean.square()).clamp_min(1e-8).sqrt()

    def windows(self, rng: np.random.Generator, count: int) -> Batch:
        """`count` random windows.

        Offsets are multiples of the stride, at which a slice of the canvas's features equals the window's own. Every
        second window lies as serving cuts it, and every fourth gets a border of its own: with free offsets alone the
        picture's border, which shows reflected context, would hardly ever be seen, and always be found anomalous.
        """
        images, targets, own = [], [], []
        for _ in range(count):
            canvas = self.canvases[int(rng.integers(len(self.canvases)))]
            # Served windows come as often as the cells that they speak for: one that is mostly fill is as rare.
            if rng.random() < 0.5:
                row, column = (int(rng.integers(cells)) // CELLS * CELLS for cells in canvas.cells)
            else:
                row, column = (int(rng.integers(max(0, cells - CELLS) + 1)) for cells in canvas.cells)
            top, left = row * STRIDE, column * STRIDE
            window = torch.from_numpy(canvas.canvas[top : top + WINDOW, left : left + WINDOW].copy())
            bordered = rng.random() < _BORDERED
            if bordered:
                window = reflect_side(window, int(rng.integers(4)))
            images.append(window)
            if bordered or canvas.features is None:
                targets.append(self._teach(window[None])[0])
            else:
                targets.append(canvas.features[:, row : row + CELLS, column : column + CELLS].float().to(self.device))
            own.append(_own(canvas.cells[0] - row, canvas.cells[1] - column))
        return Batch(
            torch.stack(images).to(self.device), torch.stack(targets), torch.from_numpy(np.stack(own)).to(self.device)
        )

    def augmented_wholes(self, rng: np.random.Generator, count: int) -> Batch:
        """`count` wholes with one photometric change each."""
        chosen = [self.canvases[int(rng.integers(len(self.canvases)))] for _ in range(count)]
        images = torch.stack([torch.from_numpy(photometric(each.whole, rng)) for each in chosen]).to(self.device)
        own = torch.from_numpy(np.stack([_own(*each.whole_cells) for each in chosen])).to(self.device)
        return Batch(images, self._teach(images), own)

    def _teach_canvas(self, canvas: NDArray[np.uint8]) -> Tensor:
        """Raw teacher features float32 [384,h/4-8,w/4-8] of one canvas.

        Widened below and to the right to a multiple of _GRAIN, whose cells are cut off again: pictures of many sizes would
        else each cost oneDNN, and cuDNN, a plan and memory of its own.
        """
        rows, columns = ((side - CONTEXT * 2) // STRIDE for side in canvas.shape[:2])
        spare = [(-side) % _GRAIN for side in canvas.shape[:2]]
        wide = np.pad(canvas, ((0, spare[0]), (0, spare[1]), (0, 0)), mode="edge")
        return self._teach(torch.from_numpy(wide[None]))[0, :, :rows, :columns]

    @torch.no_grad()
    def _teach(self, images: Tensor) -> Tensor:
        with mixed_precision(self.device):
            features: Tensor = self.teacher(normalise(images.to(self.device)))
        return features.float()


def own_features(canvas: Canvas) -> Tensor:
    """float16 [384,rows,columns]: the cached features of the picture's own cells. Raises ValueError where none are cached."""
    if canvas.features is None:
        raise ValueError("the features of this picture are not cached")
    rows, columns = canvas.cells
    return canvas.features[:, :rows, :columns]


def _own(rows: int, columns: int) -> NDArray[np.bool_]:
    """bool [56,56]: a window's first `rows` and `columns`, or all of them."""
    mask = np.zeros((CELLS, CELLS), bool)
    mask[:rows, :columns] = True
    return mask


def _room() -> int:
    """Bytes that the cached features may take."""
    available = available_memory()
    return _CACHE_BYTES if available is None else min(_CACHE_BYTES, available // _CACHE_SHARE)


def reflect_side(window: Tensor, side: int) -> Tensor:
    """The window uint8 [256,256,3] as if the picture ended at its context on one side (0..3): what serving shows there."""
    turned = torch.rot90(window, side, (0, 1)).clone()
    turned[:CONTEXT] = turned[CONTEXT + 1 : 2 * CONTEXT + 1].flip(0)
    return torch.rot90(turned, -side, (0, 1)).contiguous()


def photometric(rgb: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One of brightness, contrast or saturation times U(0.8, 1.2) (paper appendix A.1)."""
    picture, factor, kind = rgb.astype(np.float32), rng.uniform(0.8, 1.2), int(rng.integers(3))
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    ground = (0.0, grey.mean(), grey[..., None])[kind]
    return np.asarray(np.clip(ground + (picture - ground) * factor, 0, 255), np.uint8)
