"""EfficientAD's networks (Batzner et al., WACV 2024, appendix tables 5, 6, 8 and 9)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

PdnSize = Literal["small", "medium"]
PDN_SIZES: tuple[PdnSize, ...] = ("small", "medium")
TEACHER_CHANNELS = 384
IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet's, so that published teachers see what they were trained on
IMAGE_STD = (0.229, 0.224, 0.225)
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # as PyTorch names what x86 and ARM processors can


class TeacherNetwork(nn.Module, ABC):
    """Describes patches: float [N,3,H,W], normalised -> float [N,out_channels,H/4-8,W/4-8] (H and W multiples of 4).

    A cell sees at most the 33x33 px that a PDN sees, and the last of the `layers` is a convolution, so that what is linear
    behind it can be folded into it. `size`: of the student that learns from it.
    """

    size: PdnSize
    out_channels: int
    layers: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features

    @abstractmethod
    def take_pixels(self, unit: float) -> None:
        """From now on take pixels 0..255 divided by `unit`, in place of normalised ones."""


class Pdn(TeacherNetwork):
    """Patch description network: float [N,3,H,W], normalised -> float [N,out_channels,h,w], 33x33 px receptive field.

    Without padding: 256x256 -> 56x56 at a stride of 4.
    """

    def __init__(self, size: PdnSize, out_channels: int = TEACHER_CHANNELS) -> None:
        super().__init__()
        self.size = size
        self.out_channels = out_channels
        self.layers = _small(out_channels) if size == "small" else _medium(out_channels)

    def take_pixels(self, unit: float) -> None:
        """Put the normalisation into the first layer: nothing is padded, so that this is exact."""
        first = self.layers[0]
        assert isinstance(first, nn.Conv2d)
        assert first.bias is not None
        mean, std = torch.tensor(IMAGE_MEAN)[:, None, None], torch.tensor(IMAGE_STD)[:, None, None]
        with torch.no_grad():
            first.bias.sub_((first.weight * (mean / std)).sum(dim=(1, 2, 3)))
            first.weight.mul_(unit / 255 / std)

    def channels(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Output channels start..stop alone, for less work: float [N,stop-start,h,w]."""
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        return functional.conv2d(self.layers[:-1](x), last.weight[start:stop], last.bias[start:stop])


def _small(out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 128, 4),
        nn.ReLU(),
        nn.AvgPool2d(2, 2),
        nn.Conv2d(128, 256, 4),
        nn.ReLU(),
        nn.AvgPool2d(2, 2),
        nn.Conv2d(256, 256, 3),
        nn.ReLU(),
        nn.Conv2d(256, out_channels, 4),
    )


def _medium(out_channels: int) -> nn.Sequential:
    # The student's last layers are as wide as its output (reference implementation)
    return nn.Sequential(
        nn.Conv2d(3, 256, 4),
        nn.ReLU(),
        nn.AvgPool2d(2, 2),
        nn.Conv2d(256, 512, 4),
        nn.ReLU(),
        nn.AvgPool2d(2, 2),
        nn.Conv2d(512, 512, 1),
        nn.ReLU(),
        nn.Conv2d(512, 512, 3),
        nn.ReLU(),
        nn.Conv2d(512, out_channels, 4),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 1),
    )


class Autoencoder(nn.Module):
    """float [N,3,256,256] -> float [N,out_channels,56,56] through a 64-d bottleneck (paper table 8)."""

    def __init__(self, out_channels: int = TEACHER_CHANNELS) -> None:
        super().__init__()
        widths = (3, 32, 32, 64, 64, 64)
        encoder: list[nn.Module] = []
        for before, after in pairwise(widths):
            encoder += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(64, 64, 8))
        decoder: list[nn.Module] = []
        for side in (3, 8, 15, 32, 63, 127):
            decoder += [_Upsample(side), nn.Conv2d(64, 64, 4, padding=2), nn.ReLU(), nn.Dropout(0.2)]
        decoder += [
            _Upsample(56),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, out_channels, 3, padding=1),
        ]
        self.decoder = nn.Sequential(*decoder)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.decoder(self.encoder(x))
        return features


class _Upsample(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False)


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 for what stands it, where the device computes in it; a processor without it would only pretend to, slowly."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        told = getattr(torch.cpu, "get_capabilities", None)  # younger than the oldest PyTorch that is allowed
        able = told is None or any(told().get(name) for name in _BFLOAT16)
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


def normalise(images: Tensor) -> Tensor:
    """uint8 [N,H,W,3] RGB -> float32 [N,3,H,W], ImageNet mean and standard deviation, channels last in memory."""
    mean = torch.tensor(IMAGE_MEAN, device=images.device)
    std = torch.tensor(IMAGE_STD, device=images.device)
    # permute keeps the bytes where they are: the result is already channels_last
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


class Detector(nn.Module):
    """Teacher, student and autoencoder as one network: the graph that is exported and served.

    uint8 [N,256,256,3] RGB -> structural map, logical map (with the autoencoder) float32 [N,56,56], both scaled so that
    quantile q_a is 0 and q_b is 0.1 (paper section 3.4), and the raw teacher features float16 [N,384,56,56].
    """

    mean: Tensor
    std: Tensor
    q_a: Tensor
    q_b: Tensor
    directions: Tensor | None

    def __init__(self, teacher: TeacherNetwork, student: Pdn, autoencoder: Autoencoder | None) -> None:
        super().__init__()
        self.teacher, self.student, self.autoencoder = teacher, student, autoencoder
        # the features' statistics on the normal images (paper section 3.1), and the maps' quantiles: structural, logical
        self.register_buffer("mean", torch.zeros(TEACHER_CHANNELS))
        self.register_buffer("std", torch.ones(TEACHER_CHANNELS))
        self.register_buffer("q_a", torch.zeros(2))
        self.register_buffer("q_b", torch.full((2,), 0.1))
        # [K,384]: the structural map looks along these alone (service/training/directions.py); None: the paper's own
        self.register_buffer("directions", None)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = normalise(image)
        raw = self.teacher(x)
        if self.autoencoder is None:
            return self._structural(self.standard(raw) - self.student(x)), raw.half()
        imitation, copy = self.student(x).split(TEACHER_CHANNELS, dim=1)
        structural = self._structural(self.standard(raw) - imitation)
        return structural, self._scaled(self.autoencoder(x) - copy, 1), raw.half()

    def difference(self, image: Tensor) -> Tensor:
        """Standardised teacher minus student: uint8 [N,256,256,3] -> float32 [N,384,56,56]."""
        x = normalise(image)
        return self.standard(self.teacher(x)) - self.student.channels(x, 0, TEACHER_CHANNELS)

    def standard(self, raw: Tensor) -> Tensor:
        """Raw teacher features [N,384,h,w] in units of their spread on the normal images, from their mean."""
        standard: Tensor = (raw - self.mean[:, None, None]) / self.std[:, None, None]
        return standard

    def _structural(self, difference: Tensor) -> Tensor:
        if self.directions is not None:
            difference = functional.conv2d(difference, self.directions[:, :, None, None])
        return self._scaled(difference, 0)

    def _scaled(self, difference: Tensor, index: int) -> Tensor:
        distance = difference.float().square().mean(dim=1)
        return 0.1 * (distance - self.q_a[index]) / (self.q_b[index] - self.q_a[index])
