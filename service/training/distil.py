"""A wider teacher's features in a network that costs less to serve: the second stage of pre-training.

    flawscribe teacher pretrain --folder PICTURES --checkpoint run/small.pt --start-from own.safetensors --distil wide.safetensors

The smaller network learns the wider one's features channel by channel, on crops as they are and with painted flaws: where
both agree on flaws too, an EfficientAD student has the same to miss. See docs/decisions/0006-teacher.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from service.training.network import Pdn, PdnSize, TeacherNetwork, mixed_precision, normalise
from service.training.teacher import load_teacher


class Distiller(nn.Module):
    """A PDN that learns another teacher's features. Its state is the PDN's alone: the other stays as its file has it."""

    def __init__(self, size: PdnSize, taught_by: str) -> None:
        """`taught_by`: the wider teacher's weights file. Raises BadRequest when there is none, or it is damaged."""
        super().__init__()
        wide = load_teacher(taught_by).network
        self.pdn = Pdn(size, wide.out_channels)
        self._wide: tuple[TeacherNetwork] = (wide,)  # in a tuple, so that it is no part of the module's state

    def forward(self, images: Tensor, _: Tensor, flaw: Tensor, step: int) -> Tensor:
        """The mean share, over channels, of the wider features' variance that the PDN misses, on the first and the flawed
        of three batches of views uint8 [3*N,crop,crop,3]; 1 is what a constant would miss, 0 nothing."""
        del flaw, step
        first, _, flawed = images.chunk(3)
        seen = normalise(torch.cat([first, flawed]))
        (wide,) = self._wide
        with mixed_precision(images.device):
            with torch.no_grad():
                wanted = wide.to(images.device)(seen).float()
            found = self.pdn(seen).float()
        missed = (found - wanted).square().mean(dim=(0, 2, 3))
        share: Tensor = (missed / wanted.var(dim=(0, 2, 3)).clamp_min(1e-12)).mean()
        return share
