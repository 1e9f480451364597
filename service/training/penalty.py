"""Penalty images: general pictures on which the student must stay silent, so that it does not learn to generalise."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.errors import FlawscribeError
from service.image.decode import decode
from service.samples.textures import random_texture
from service.training.data import MAX_PIXELS, find_images, require_readable

Say = Callable[[str], None]
MOST = 1000  # files of a folder that are taken: 200 MB of crops


class PenaltyImages:
    """Draws penalty images from a folder, whose files are decoded here once, or generates textures where none is given.
    Nothing is downloaded. `digest`: sha256 over the names and contents of the files taken; empty without a folder."""

    def __init__(self, folder: Path | None, say: Say | None = None) -> None:
        """`say` is told when only some of the files are taken. Raises BadRequest naming files that cannot be read."""
        self.crops, self.digest = ([], "") if folder is None else _crops(folder, say)

    def draw(self, rng: np.random.Generator, count: int, side: int = 256) -> Tensor:
        """uint8 [count,side,side,3]: resized to 512, 30 % grey, a centre crop of 256 (paper appendix A.1), and of that a
        random square of `side` px."""
        return torch.from_numpy(np.stack([self._one(rng, side) for _ in range(count)]))

    def _one(self, rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
        if not self.crops:
            return random_texture(rng, side, side)
        crop = self.crops[int(rng.integers(len(self.crops)))]
        left, top = (int(place) for place in rng.integers(0, 256 - side + 1, 2))
        image = Image.fromarray(crop[top : top + side, left : left + side])
        return np.asarray(image.convert("L").convert("RGB") if rng.random() < 0.3 else image)


def _crops(folder: Path, say: Say | None) -> tuple[list[NDArray[np.uint8]], str]:
    """Centre crops uint8 [256,256,3] of the folder's images, or of MOST of them, evenly taken, and the digest of those files."""
    files = find_images(folder)
    if len(files) > MOST:
        if say is not None:
            say(f"{MOST} of the {len(files)} penalty images in {folder} are taken")
        files = [files[index * len(files) // MOST] for index in range(MOST)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_crop, files))
    require_readable(files, found)
    read = [each for each in found if not isinstance(each, str)]
    lines = [f"{file.relative_to(folder).as_posix()} {content}" for file, (_, content) in zip(files, read, strict=True)]
    return [crop for crop, _ in read], hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _crop(file: Path) -> tuple[NDArray[np.uint8], str] | str:
    """A file's crop and the sha256 of its content, or why it cannot be read."""
    data = file.read_bytes()
    try:
        rgb = decode(data, MAX_PIXELS)
    except FlawscribeError as error:
        return error.detail
    image = Image.fromarray(rgb).resize((512, 512), Image.Resampling.BILINEAR).crop((128, 128, 384, 384))
    return np.asarray(image), hashlib.sha256(data).hexdigest()
