"""Whether the logical map has anything to say: what the autoencoder has learned of how parts look as a whole.

Where pictures have nothing in common but their texture, the autoencoder learns little more than the mean, the student copies
that, and what the logical map then shows is noise, which counts as much as the structural map does (docs/decisions/0028).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import nn

from service.decision.scale import logical_roi_cells
from service.image.prepare import whole_cells
from service.training.network import TEACHER_CHANNELS, Detector, mixed_precision, normalise
from service.training.select import Example

LEAST = 0.25  # share of the features' variance that an autoencoder explains which can tell where things belong


def without_idle_autoencoder(detector: Detector, examples: Sequence[Example], say: Callable[[str], None]) -> Detector:
    """The detector, without autoencoder and logical map where that explains too little of the untouched `examples`."""
    share = explained(detector, examples)
    if share >= LEAST:
        return detector
    say(
        f"pictures have too little in common for a map of what is missing or moved ({max(share, 0):.1%} of their features are "
        "told from the whole): it is left out"
    )
    return structural_alone(detector)


@torch.no_grad()
def explained(detector: Detector, examples: Sequence[Example]) -> float:
    """Share of the variance of the teacher's features that the autoencoder explains on the untouched `examples`, at most 1;
    below 0 where it is farther from them than their mean. Raises ValueError without an autoencoder."""
    if detector.autoencoder is None:
        raise ValueError("there is no autoencoder")
    left = there = 0.0
    for example in examples:
        if example.mask is None:
            rows, columns = whole_cells(example.plan)
            whole = normalise(torch.from_numpy(example.windows[-1:]).to(detector.mean.device))
            with mixed_precision(detector.mean.device):
                features = detector.standard(detector.teacher(whole).float())
                rebuilt = detector.autoencoder(whole).float()
            looked_at = torch.ones(rows, columns, dtype=torch.bool)
            if example.roi is not None:
                looked_at = torch.from_numpy(logical_roi_cells(example.roi, example.plan))
            looked_at = looked_at.to(features.device)
            left += float((features - rebuilt)[..., :rows, :columns][..., looked_at].square().mean())
            there += float(features[..., :rows, :columns][..., looked_at].square().mean())
    return 1 - left / there


def structural_alone(detector: Detector) -> Detector:
    """The same teacher and the half of the student that imitates it."""
    student = deepcopy(detector.student)
    last = student.layers[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    # the layers before it stay as wide as they are: each of a medium student's hidden channels serves both halves
    last.weight = nn.Parameter(last.weight.detach()[:TEACHER_CHANNELS].clone())
    last.bias = nn.Parameter(last.bias.detach()[:TEACHER_CHANNELS].clone())
    last.out_channels = student.out_channels = TEACHER_CHANNELS
    alone = Detector(detector.teacher, student, None).to(detector.mean.device).eval()
    alone.mean.copy_(detector.mean)
    alone.std.copy_(detector.std)
    return alone
