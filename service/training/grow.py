"""A PDN-medium that begins as a PDN-small: the wider network computes what the narrower one does, and has room beside it.

Growing a network without changing its function is Net2Net's (Chen, Goodfellow, Shlens, ICLR 2016). Both sizes have the same
receptive field and stride, so that the cells are the same ones; what the medium one has more, two 1x1 layers, pass through.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from service.samples.textures import random_texture
from service.training.network import Pdn, normalise

_SMALL = (0, 3, 6, 8)  # convolutions of PDN-small …
_MEDIUM = (0, 3, 8, 10)  # … and where they go in PDN-medium
_THROUGH, _LAST = 6, 12  # its 1x1 layers
_MARGIN = 2.0  # of the largest value seen: the ReLU that PDN-medium has before its last layer must cut off nothing


def grown(small: Pdn, seed: int = 0) -> Pdn:
    """A PDN-medium, float32, with the same features as the PDN-small `small`: float [N,3,H,W] -> [N,C,H/4-8,W/4-8].

    Its further channels look at all of the layer before at random, and nothing looks at them yet but each other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        medium = Pdn("medium", small.out_channels)
    with torch.no_grad():
        for source, target in zip(_SMALL, _MEDIUM, strict=True):
            old, new = _convolution(small, source), _convolution(medium, target)
            weight, bias = _parts(old)
            wide, long = _parts(new)
            wide[: len(weight)] = 0
            wide[: len(weight), : weight.shape[1]] = weight
            long[: len(bias)] = bias
        through, offset = _parts(_convolution(medium, _THROUGH))
        kept = _convolution(small, _SMALL[1]).out_channels
        through[:kept] = 0
        through[:kept, :kept] = torch.eye(kept)[:, :, None, None]  # behind a ReLU: nothing is negative
        offset[:kept] = 0
        lift = _MARGIN * _largest(small, seed)
        _parts(_convolution(medium, _MEDIUM[-1]))[1].add_(lift)
        last, back = _parts(_convolution(medium, _LAST))
        last.copy_(torch.eye(small.out_channels)[:, :, None, None])
        back.copy_(-lift)
    return medium


def _convolution(network: Pdn, index: int) -> nn.Conv2d:
    layer = network.layers[index]
    assert isinstance(layer, nn.Conv2d)
    return layer


def _parts(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight.data, layer.bias.data


def _largest(small: Pdn, seed: int) -> Tensor:
    """The largest absolute value of each feature on generated textures, float32 [C]."""
    rng = np.random.default_rng(seed)
    textures = np.stack([random_texture(rng, 128, 128) for _ in range(32)])
    found: Tensor = small(normalise(torch.from_numpy(textures)))
    return found.abs().amax(dim=(0, 2, 3))
