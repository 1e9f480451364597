"""A description of each place of a picture made by hand, without learning: what a teacher's features could be.

Flaws show as energy of some scale and direction where normal parts have none. So the description is made of the local
energies of complex Gabor filters (three scales, eight directions; of the colour differences too), of bright and dark blobs,
and of local means; energies as their logarithm, so that exposure adds and does not multiply. That is the first order of
a scattering transform (Bruna and Mallat, IEEE TPAMI 2013).
It is a yardstick for teachers in benchmarks/teacher_probe.py (docs/decisions/0019); no bundle is trained with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from service.image.prepare import STRIDE

CONTEXT = 16  # px without cells on each side, as a PDN has; the widest blobs see 30 px around a cell, a PDN 16
_SCALES = (0.8, 1.5, 3.0)  # px: standard deviation of the Gabor filters' envelope
_DIRECTIONS = 8
_FINE, _COARSE = (1.2, 4), (3.0, 8)  # standard deviation and radius of the averages, px
_BLOBS = (1.0, 2.0, 4.0)  # px
_MEANS = (2.0, 4.0)  # px
_FLOOR = 0.02  # fainter energies hardly count


@torch.no_grad()
def describe(images: Tensor) -> Tensor:
    """uint8 [N,H,W,3] RGB -> float32 [N,82,H//4-8,W//4-8], on the cells of a PDN (H and W multiples of 4).

    What lies beyond the picture is its reflection.
    """
    light = 2 * (images.permute(0, 3, 1, 2).float() / 255).sqrt()  # noise of photographs is about even after the root
    red, green, blue = (light[:, index : index + 1] for index in range(3))
    grey = light.mean(dim=1, keepdim=True)
    colour = torch.cat([red - green, blue - (red + green) / 2], dim=1)
    found = []
    for scale in _SCALES:
        energy = _energy(grey, scale, 1)
        found += [_told(_blurred(energy, *_FINE)), _told(_blurred(energy, *_COARSE))]
        if scale > 1:  # cameras and JPEG keep no finer colour
            found.append(_told(_blurred(_energy(colour, scale, 2), *_FINE)))
    for size in _BLOBS:
        blob = _blurred(grey, size) - _blurred(grey, 1.6 * size)
        found += [_told(_blurred(side.clamp_min(0), *_FINE)) for side in (blob, -blob)]
        tint = _blurred(colour, size) - _blurred(colour, 2 * size)
        found.append(_told(_blurred(tint.abs(), *_FINE)))
    for size in _MEANS:
        found += [torch.log(_blurred(grey, size) + 0.05), _blurred(colour, size)]
    maps = torch.cat(found, dim=1)
    edge = CONTEXT - STRIDE // 2  # a cell is the mean over the four by four pixels around its middle
    height, width = (side - 2 * CONTEXT for side in maps.shape[2:])
    return functional.avg_pool2d(maps[:, :, edge : edge + height, edge : edge + width], STRIDE)


def _told(energy: Tensor) -> Tensor:
    return torch.log(energy + _FLOOR)


def _energy(image: Tensor, scale: float, every: int) -> Tensor:
    """Modulus of the complex Gabor filters, each `every`-th direction: [N,C,H,W] -> [N,C*D,H,W]."""
    filters = _gabor(scale)[::every]
    count, _, height, width = image.shape
    radius = filters.shape[-1] // 2
    padded = functional.pad(image.reshape(-1, 1, height, width), (radius,) * 4, mode="reflect")
    even, odd = (functional.conv2d(padded, filters[:, part, None]) for part in (0, 1))
    return (even.square() + odd.square() + 1e-8).sqrt().reshape(count, -1, height, width)


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


def _blurred(image: Tensor, deviation: float, radius: int | None = None) -> Tensor:
    """Gaussian average of each channel of [N,C,H,W], reflected at the border."""
    radius = round(3 * deviation) if radius is None else radius
    weights = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * deviation**2))
    weights, channels = weights / weights.sum(), image.shape[1]
    padded = functional.pad(image, (radius,) * 4, mode="reflect")
    rows = functional.conv2d(padded, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return functional.conv2d(rows, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
