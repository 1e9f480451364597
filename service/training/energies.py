"""A teacher made by hand: local energies of Gabor filters, blobs and means, which no training is needed for.

Flaws show as energy of some scale and direction where normal parts have none. So a cell is described by the local
energies of complex Gabor filters (three scales, eight directions; of the colour differences too), of bright and dark blobs,
and by local means; energies as their logarithm, so that exposure adds and does not multiply. That is the first order of
a scattering transform (Bruna and Mallat, IEEE TPAMI 2013). What it is worth as a teacher: docs/decisions/0020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from service.image.prepare import CONTEXT, STRIDE
from service.training.network import IMAGE_MEAN, IMAGE_STD, TEACHER_CHANNELS, PdnSize, TeacherNetwork, normalise
from service.training.teacher_views import random_crop

ENERGY_CHANNELS = 70
_REACH = CONTEXT - STRIDE // 2  # px that a cell sees beyond its own four, as a PDN's
_DIRECTIONS = 8
# standard deviation and radius, px: of the averages of energies, and of the means
_FINE, _COARSE, _NEAR, _WIDE = (1.2, 4), (3.0, 8), (2.0, 6), (4.0, 12)
_AVERAGES = (  # with the px that an image has lost on each side, and its step in px
    *((_FINE, lost, 1) for lost in (2, 4, 5)),
    *((_FINE, lost, 2) for lost in (4, 6, 8, 10)),
    *((_COARSE, lost, 1) for lost in (2, 4)),
    *((average, 0, 2) for average in (_NEAR, _WIDE)),
)
_BLURS = ((0.5, 2), (1.0, 3), (1.6, 5), (2.0, 5))  # standard deviation and radius in px of the image
_FLOOR = 0.02  # fainter energies hardly count
_SHRINK = 0.01  # of the mean variance, when whitening
_CROP, _CELLS = 128, 75  # px of a crop, and how many of its cells the whitening is learned from


class Energies(TeacherNetwork):
    """The energies, whitened on pictures of all kinds and turned into as many channels as a PDN has (`layers.1`).

    In float32 under autocast too: a whitened channel is a small difference of large ones.
    """

    def __init__(self, size: PdnSize = "small", out_channels: int = TEACHER_CHANNELS) -> None:
        super().__init__()
        self.size = size
        self.out_channels = out_channels
        self.front = _Front()
        self.layers = nn.Sequential(self.front, nn.Conv2d(ENERGY_CHANNELS, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())

    def take_pixels(self, unit: float) -> None:
        """Divide by 255 alone, where the normalisation was undone before."""
        self.front.scale.fill_(unit / 255)
        self.front.shift.zero_()

    @torch.no_grad()
    def whiten(self, crops: Sequence[Tensor], seed: int = 0) -> None:
        """Learn the last layer from normalised `crops` [1,3,H,W] of pictures of all kinds: whitened energies, spread over
        the channels by random directions at right angles."""
        random = torch.Generator().manual_seed(seed)
        cells = []
        for crop in crops:
            flat = self.front(crop).permute(0, 2, 3, 1).flatten(0, 2)
            cells.append(flat[torch.randperm(len(flat), generator=random)[:_CELLS]])
        seen = torch.cat(cells).double()
        values, vectors = torch.linalg.eigh(torch.cov(seen.T))
        white = vectors / (values + _SHRINK * values.mean()).sqrt()
        spread = torch.linalg.qr(torch.randn(self.out_channels, ENERGY_CHANNELS, generator=random))[0].double()
        weight = (self.out_channels / ENERGY_CHANNELS) ** 0.5 * spread @ white.T
        last = self.layers[1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.weight.copy_(weight[:, :, None, None])
        last.bias.copy_(-weight @ seen.mean(dim=0))


def whitened_on(pictures: Sequence[NDArray[np.uint8]], seed: int = 0, crops: int = 1200) -> Energies:
    """The teacher in eval mode, whitened on random `crops` of the `pictures` uint8 [H,W,3] each."""
    rng = np.random.default_rng(seed)
    drawn = [random_crop(pictures[int(rng.integers(len(pictures)))], _CROP, rng) for _ in range(crops)]
    network = Energies()
    network.whiten([normalise(torch.from_numpy(crop.copy()[None])) for crop in drawn], seed)
    return network.eval().requires_grad_(False)


class _Front(nn.Module):
    """float [N,3,H,W] -> float [N,70,H/4-8,W/4-8]: the energies before whitening.

    Coarser scales and colour are looked at in half the resolution. No padding, so that a window and a whole picture agree.
    """

    scale: Tensor
    shift: Tensor
    small_waves: Tensor
    large_waves: Tensor

    def __init__(self) -> None:
        super().__init__()
        constants = {"scale": torch.tensor(IMAGE_STD)[:, None, None], "shift": torch.tensor(IMAGE_MEAN)[:, None, None]}
        for name, value in (constants | {"small_waves": _gabor(0.8), "large_waves": _gabor(1.5)}).items():
            self.register_buffer(name, value, persistent=False)
        self.blurs = nn.ModuleDict({_key(*each): _Smooth(_gauss(*each)) for each in _BLURS})
        self.averages = nn.ModuleDict({_key(*each[0], *each[1:]): _OnCells(*each) for each in _AVERAGES})

    def forward(self, x: Tensor) -> Tensor:
        light = 2 * torch.relu(x * self.scale + self.shift).sqrt()  # noise of photographs is about even after the root
        red, green, blue = (light[:, index : index + 1] for index in range(3))
        grey = light.mean(dim=1, keepdim=True)
        colour = torch.cat([red - green, blue - (red + green) / 2], dim=1)
        half_grey, half_colour = functional.avg_pool2d(grey, 2), functional.avg_pool2d(colour, 2)
        small, large = self.small_waves, self.large_waves
        found = []
        for image, waves, lost, every in ((grey, small, 2, 1), (grey, large, 4, 1), (half_grey, large, 8, 2)):
            energy = _energy(image, waves)
            found.append(self._told(energy, _FINE, lost, every))
            if every == 1:  # wider averages of the widest waves would see more than a PDN does
                found.append(self._told(energy, _COARSE, lost, every))
        for waves, lost in ((small[::2], 4), (large[::2], 8)):  # cameras and JPEG keep no finer colour
            found.append(self._told(_energy(half_colour, waves), _FINE, lost, 2))
        for image, lost, every in ((grey, 5, 1), (half_grey, 10, 2)):
            near, far = _inner(self._blurred(image, 1.0, 3), 2), self._blurred(image, 1.6, 5)
            found += [self._told(torch.relu(side), _FINE, lost, every) for side in (near - far, far - near)]
        tint = _inner(self._blurred(half_colour, 0.5, 2), 1) - self._blurred(half_colour, 1.0, 3)
        found.append(self._told(tint.abs(), _FINE, 6, 2))
        tint = _inner(self._blurred(half_colour, 1.0, 3), 2) - self._blurred(half_colour, 2.0, 5)
        found.append(self._told(tint.abs(), _FINE, 10, 2))
        for average in (_NEAR, _WIDE):
            found.append(torch.log(self._on_cells(half_grey, average, 0, 2) + 0.05))
            found.append(self._on_cells(half_colour, average, 0, 2))
        rows, columns = ((side - 2 * CONTEXT) // STRIDE for side in x.shape[2:])
        return torch.cat([each[..., :rows, :columns] for each in found], dim=1)

    def _told(self, energy: Tensor, average: tuple[float, int], lost: int, every: int) -> Tensor:
        return torch.log(self._on_cells(energy, average, lost, every) + _FLOOR)

    def _on_cells(self, image: Tensor, average: tuple[float, int], lost: int, every: int) -> Tensor:
        found: Tensor = self.averages[_key(*average, lost, every)](image)
        return found

    def _blurred(self, image: Tensor, deviation: float, radius: int) -> Tensor:
        blurred: Tensor = self.blurs[_key(deviation, radius)](image)
        return blurred


class _Smooth(nn.Module):
    """Average of each channel with the same `weights` [K] along rows and columns, at every `step`-th place, without padding."""

    weights: Tensor

    def __init__(self, weights: Tensor, step: int = 1) -> None:
        super().__init__()
        self.step = step
        self.register_buffer("weights", torch.outer(weights, weights)[None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        channels = image.shape[1]
        return functional.conv2d(image, self.weights.repeat(channels, 1, 1, 1), groups=channels, stride=self.step)


class _OnCells(_Smooth):
    """Gaussian average over each cell's four by four pixels, the cells from the first on: [N,C,h,w] -> [N,C,rows,columns].

    The image has every `every`-th pixel of the picture and has lost `lost` px of it on each side; `average` is standard
    deviation and radius in px of the picture.
    """

    def __init__(self, average: tuple[float, int], lost: int, every: int) -> None:
        deviation, radius = average
        box = torch.full((STRIDE // every,), every / STRIDE)
        weights = functional.conv1d(
            _gauss(deviation / every, radius // every)[None, None], box[None, None], padding=len(box) - 1
        )
        # zeros in front of the filter, where the first cell does not look: cutting them off the image would copy it
        super().__init__(functional.pad(weights[0, 0], ((_REACH - lost - radius) // every, 0)), STRIDE // every)


def _energy(image: Tensor, waves: Tensor) -> Tensor:
    """Modulus of the complex filters `waves` [D,2,K,K] on each channel: [N,C,H,W] -> [N,C*D,H-K+1,W-K+1]."""
    channels, pairs = image.shape[1], waves.transpose(0, 1).flatten(0, 1)[:, None]  # all even ones, then all odd ones
    found = functional.conv2d(image, pairs.repeat(channels, 1, 1, 1), groups=channels)
    even, odd = torch.unflatten(found, 1, (channels, 2, len(waves))).unbind(2)
    energy: Tensor = (even * even + odd * odd).sqrt()
    return torch.flatten(energy, 1, 2)


def _gabor(scale: float) -> Tensor:
    """float32 [8,2,K,K]: even and odd filters of a wave of 3.6 times the scale; no mean, absolute sum 1."""
    radius = math.ceil(2.5 * scale)
    axis = torch.arange(-radius, radius + 1.0)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pairs = []
    for direction in range(_DIRECTIONS):
        angle = math.pi * direction / _DIRECTIONS
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        envelope = torch.exp(-(along.square() + 0.5 * across.square()) / (2 * scale**2))
        phase = 2 * math.pi / (3.6 * scale) * along
        even, odd = envelope * phase.cos(), envelope * phase.sin()
        even = even - envelope * (even.sum() / envelope.sum())
        pairs.append(torch.stack([even / even.abs().sum(), odd / odd.abs().sum()]))
    return torch.stack(pairs)


def _key(*parts: object) -> str:
    return "_".join(map(str, parts)).replace(".", "_")  # a module's name has no dot


def _gauss(deviation: float, radius: int) -> Tensor:
    weights = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * deviation**2))
    return weights / weights.sum()


def _inner(image: Tensor, margin: int) -> Tensor:
    return image[..., margin:-margin, margin:-margin]
