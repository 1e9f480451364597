"""Penalty images: general pictures on which the student must stay silent, so that it does not learn to generalise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.image.decode import decode
from service.samples.textures import random_texture
from service.training.data import MAX_PIXELS, find_images


class PenaltyImages:
    """Draws penalty images from a folder, or generates textures where none is given. Nothing is downloaded."""

    def __init__(self, folder: Path | None) -> None:
        self.files = find_images(folder) if folder is not None else []

    def draw(self, rng: np.random.Generator, count: int, side: int = 256) -> Tensor:
        """uint8 [count,side,side,3]: resized to 512, 30 % grey, a centre crop of 256 (paper appendix A.1), and of that a
        random square of `side` px."""
        return torch.from_numpy(np.stack([self._one(rng, side) for _ in range(count)]))

    def _one(self, rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
        if not self.files:
            return random_texture(rng, side, side)
        rgb = decode(self.files[int(rng.integers(len(self.files)))].read_bytes(), MAX_PIXELS)
        image = Image.fromarray(rgb).resize((512, 512), Image.Resampling.BILINEAR).crop((128, 128, 384, 384))
        left, top = (int(place) for place in rng.integers(0, 256 - side + 1, 2))
        image = image.crop((left, top, left + side, top + side))
        return np.asarray(image.convert("L").convert("RGB") if rng.random() < 0.3 else image)
