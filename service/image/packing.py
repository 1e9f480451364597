"""Windows whose cells lie mostly beyond the picture, several of them in one: the network runs as few windows as it must.

A picture's last row and column of windows may speak for few cells: of 448x252 px the lower row for 7 of 56. A cell sees 33 px
and nothing else, so that such pieces may lie in one window beside each other, each with its own context, and every cell is
what it was. Training does not do this: a student must not learn from seams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.image.prepare import CELLS, CONTEXT, STRIDE, WINDOW
from service.types import TilePlan, Wanted, WindowMaps, wanted_of

Number = TypeVar("Number", bound=np.generic)
_SIDE = WINDOW // STRIDE  # a window's side in steps of a cell
_MARGIN = 2 * CONTEXT // STRIDE  # steps that a piece's context takes beside its cells


@dataclass(frozen=True, slots=True)
class Piece:
    """A tile's cells inside the picture: `rows` x `columns` of them, from cell `row`, `column` of the packed window `window` on."""

    window: int
    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Packing:
    """Where each tile of a plan is, in the tiles' order, and how many windows the network runs. `whole`: whether the last one is
    the shrunk whole."""

    pieces: tuple[Piece, ...]
    windows: int
    whole: bool

    @property
    def saves(self) -> bool:
        """Whether these are fewer windows than the plan's own."""
        return self.windows < len(self.pieces) + self.whole

    @property
    def tiles(self) -> int:
        """How many of the windows hold tiles: all but the shrunk whole."""
        return self.windows - self.whole

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """What the network is asked of each window."""
        return wanted_of(self.tiles, self.whole)


def pack_tiles(plan: TilePlan) -> Packing:
    """The packing of a plan: pieces on shelves, the highest first. Full tiles have windows of their own."""
    sizes = [
        (min(CELLS, plan.rows - tile.row * CELLS), min(CELLS, plan.columns - tile.column * CELLS))
        for tile in plan.tiles
    ]
    pieces: dict[int, Piece] = {}
    window = top = left = height = 0
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index][0], -sizes[index][1])):
        rows, columns = sizes[index]
        if left + columns + _MARGIN > _SIDE:  # the next shelf
            top, left, height = top + height, 0, 0
        if top + rows + _MARGIN > _SIDE:
            window, top, left, height = window + 1, 0, 0, 0
        pieces[index] = Piece(window, top, left, rows, columns)
        left, height = left + columns + _MARGIN, max(height, rows + _MARGIN)
    whole = bool(plan.whole_width)
    return Packing(tuple(pieces[index] for index in range(len(sizes))), window + 1 + whole, whole)


def packed(windows: NDArray[np.uint8], packing: Packing) -> NDArray[np.uint8]:
    """`prepare`'s windows uint8 [n,256,256,3] as uint8 [packing.windows,256,256,3]."""
    if not packing.saves:
        return windows
    result = np.zeros((packing.windows, *windows.shape[1:]), np.uint8)
    for piece, window in zip(packing.pieces, windows, strict=False):
        height, width = ((cells + _MARGIN) * STRIDE for cells in (piece.rows, piece.columns))
        top, left = piece.row * STRIDE, piece.column * STRIDE
        result[piece.window, top : top + height, left : left + width] = window[:height, :width]
    if packing.whole:
        result[-1] = windows[-1]
    return result


def unpacked(maps: WindowMaps, packing: Packing) -> WindowMaps:
    """The network's answer to packed windows as its answer to `prepare`'s; cells beyond the picture, which nobody reads, are 0,
    and so are the shrunk whole's where `maps` are of the tiles alone."""
    if not packing.saves:
        return maps
    logical = features = None
    if maps.logical is not None:
        logical = _unpacked(maps.logical, packing)
    if maps.features is not None:
        features = _unpacked(maps.features, packing)
    return WindowMaps(_unpacked(maps.structural, packing), logical, features)


def _unpacked(maps: NDArray[Number], packing: Packing) -> NDArray[Number]:
    result = np.zeros((len(packing.pieces) + packing.whole, *maps.shape[1:]), maps.dtype)
    for piece, own in zip(packing.pieces, result, strict=False):
        down, across = slice(piece.row, piece.row + piece.rows), slice(piece.column, piece.column + piece.columns)
        own[..., : piece.rows, : piece.columns] = maps[piece.window, ..., down, across]
    if packing.whole and len(maps) == packing.windows:
        result[-1] = maps[-1]
    return result
