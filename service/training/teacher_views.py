"""Pictures for pre-training a teacher, and the views drawn from them: two of a place as it is, one with flaws painted in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from service.errors import FlawscribeError
from service.image.decode import decode
from service.image.folder import pictures_below
from service.image.prepare import STRIDE
from service.samples.textures import random_texture
from service.training.data import MAX_PIXELS, require_readable
from service.training.flaws import paint_flaw

RECEPTIVE_FIELD = 33  # px of the PDN
MAX_SHIFT = 2  # cells between the two views
_SHORT_SIDE = 288  # px: pictures are kept no larger in memory


@dataclass(frozen=True, slots=True)
class Views:
    """Three views of each crop, uint8 [batch,crop,crop,3]; `second` starts `shifts` [batch,2] cells (down, right) further,
    give or take the jitter. `flawed` lies where `first` does and has flaws painted in: `flaw` float32 [batch,cells,cells] is
    1 where a cell has one in its middle, 0 where it sees none, NaN where it sees one only beside its middle."""

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    shifts: NDArray[np.int64]
    flawed: NDArray[np.uint8]
    flaw: NDArray[np.float32]


def load_pictures(folders: Sequence[str], generated: int, seed: int) -> list[NDArray[np.uint8]]:
    """All pictures below the folders, short side at most 288 px, and `generated` textures, as uint8 [H,W,3] in memory.

    Raises BadRequest when a folder holds no picture, or one that cannot be read.
    """
    files = [path for folder in folders for path in pictures_below(Path(folder))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_small_or_why, files))
    require_readable(files, found)
    pictures = [each for each in found if not isinstance(each, str)]
    seeds = np.random.SeedSequence(seed).spawn(generated)
    return pictures + [random_texture(np.random.default_rng(each), 256, 256) for each in seeds]


def small_picture(path: Path) -> NDArray[np.uint8]:
    """The picture uint8 [H,W,3] as it is kept in memory, short side at most 288 px. Raises UnreadableImage or TooLarge."""
    rgb = Image.fromarray(decode(path.read_bytes(), MAX_PIXELS))
    shrink = _SHORT_SIDE / min(rgb.size)
    if shrink < 1:
        rgb = rgb.resize((round(rgb.width * shrink), round(rgb.height * shrink)), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def _small_or_why(path: Path) -> NDArray[np.uint8] | str:
    try:
        return small_picture(path)
    except FlawscribeError as error:
        return error.detail


def draw_views(
    pictures: Sequence[NDArray[np.uint8]], batch: int, crop: int, jitter: int, rng: np.random.Generator
) -> Views:
    """Crops of random pictures: seen twice, moved by whole cells and by up to `jitter` px, and once with painted flaws;
    each view disturbed on its own."""
    first = np.empty((batch, crop, crop, 3), np.uint8)
    second, flawed = np.empty_like(first), np.empty_like(first)
    cells = (crop - RECEPTIVE_FIELD) // STRIDE + 1
    flaw = np.empty((batch, cells, cells), np.float32)
    shifts = rng.integers(0, MAX_SHIFT + 1, (batch, 2))
    moves = shifts * STRIDE + rng.integers(-jitter, jitter + 1, (batch, 2))
    side = crop + MAX_SHIFT * STRIDE + 2 * jitter
    for index in range(batch):
        patch = random_crop(pictures[int(rng.integers(len(pictures)))], side, rng)
        top, left = (int(move) + jitter for move in moves[index])
        first[index] = disturb(patch[jitter : jitter + crop, jitter : jitter + crop], rng)
        second[index] = disturb(patch[top : top + crop, left : left + crop], rng)
        painted, mask = _painted(patch[jitter : jitter + crop, jitter : jitter + crop], rng)
        flawed[index], flaw[index] = disturb(painted, rng), flaw_cells(mask)
    return Views(first, second, shifts, flawed, flaw)


def _painted(patch: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The patch with one to three flaws, faint ones among them, and where they are."""
    painted, mask = patch, np.zeros(patch.shape[:2], bool)
    for _ in range(int(rng.integers(1, 4))):
        ground = np.asarray(np.clip(painted, 0, 255), np.uint8)
        changed, where = paint_flaw(ground, rng)
        strength = np.float32(rng.uniform(0.25, 1))
        painted = painted + strength * (changed.astype(np.float32) - ground)
        mask |= where
    return painted, mask


def flaw_cells(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """float32 [cells,cells] of a mask bool [crop,crop]: 1 where the middle 9x9 px of a cell's receptive field hold a few
    flawed pixels, 0 where the field holds none, NaN between."""
    side = RECEPTIVE_FIELD // 2
    inner = ndimage.uniform_filter(mask.astype(np.float32), 9, mode="constant")
    seen = ndimage.maximum_filter(mask, RECEPTIVE_FIELD, mode="constant")
    taken = slice(side, mask.shape[0] - side, STRIDE)
    return np.where(inner[taken, taken] > 0.08, 1, np.where(seen[taken, taken], np.nan, 0)).astype(np.float32)


def random_crop(picture: NDArray[np.uint8], side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A square of `side` px: random scale, quarter turn and mirroring, sometimes grey or faint; for both views."""
    height, width = picture.shape[:2]
    taken = int(np.clip(side * rng.uniform(0.6, 1.8), 16, min(height, width)))
    top, left = int(rng.integers(height - taken + 1)), int(rng.integers(width - taken + 1))
    image = Image.fromarray(picture[top : top + taken, left : left + taken])
    patch = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32)
    patch = np.rot90(patch, int(rng.integers(4)))
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    if rng.random() < 0.4:
        patch = np.repeat(patch.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.3:  # low contrast, as on plain industrial surfaces
        mean = patch.mean(axis=(0, 1))
        patch = mean + (patch - mean) * rng.uniform(0.15, 0.6)
    return patch


def disturb(patch: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One view's mild photometric noise on float32 [H,W,3], 0..255: gamma, contrast, brightness, colour, grain, a touch
    of blur now and then. Structure stays: what a teacher is made blind to cannot be found later."""
    patch = np.asarray(255 * (np.clip(patch, 0, 255) / 255) ** rng.uniform(0.85, 1.18), np.float32)
    if rng.random() < 0.15:
        patch = ndimage.gaussian_filter(patch, (sigma := rng.uniform(0.2, 0.6), sigma, 0))
    mean = patch.mean()
    contrast, brightness = rng.uniform(0.85, 1.18), rng.uniform(-14, 14)
    balance = 1 + rng.normal(0, 0.02, 3)
    noisy = ((patch - mean) * contrast + mean + brightness) * balance
    noisy = noisy + rng.normal(0, rng.uniform(0, 5), patch.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)
