"""The logical map is kept where the autoencoder has learned something, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.image.prepare import PrepareRecipe
from service.training.logical import LEAST, explained, structural_alone, without_idle_autoencoder
from service.training.network import Autoencoder, Detector, Pdn
from service.training.select import Selection

RECIPE = PrepareRecipe(value=300)
PICTURES = [np.random.default_rng(seed).integers(0, 256, (100, 140, 3), dtype=np.uint8) for seed in range(3)]


@pytest.fixture(scope="module")
def painted() -> Selection:
    return Selection(PICTURES, RECIPE, global_map=True, min_flaw_px=4, flaws_each=1)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    detector = Detector(Pdn("small"), Pdn("small", 768), Autoencoder()).eval().requires_grad_(False)
    detector.mean.fill_(0.01)
    detector.std.fill_(0.5)
    return detector


class Knowing(Autoencoder):
    """An autoencoder that gives `share` of what the teacher sees."""

    def __init__(self, detector: Detector, share: float) -> None:
        super().__init__()
        self.detector, self.share = [detector], share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.share * self.detector[0].standard(self.detector[0].teacher(x))


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1.0), (0.5, 0.75), (0.0, 0.0), (-1.0, -3.0)])
def test_what_an_autoencoder_explains(painted: Selection, detector: Detector, share: float, expected: float) -> None:
    knowing = Detector(detector.teacher, detector.student, Knowing(detector, share))
    knowing.load_state_dict(detector.state_dict(), strict=False)
    assert explained(knowing, painted.examples) == pytest.approx(expected, abs=0.02)  # bfloat16
    said: list[str] = []
    kept = without_idle_autoencoder(knowing, painted.examples, said.append)
    assert (kept is knowing) == (expected >= LEAST) == (not said)


def test_what_is_left_is_the_same_structural_map(painted: Selection, detector: Detector) -> None:
    alone = structural_alone(detector)
    assert alone.autoencoder is None
    windows = torch.from_numpy(painted.examples[0].windows[:1])
    torch.testing.assert_close(alone(windows)[0], detector(windows)[0])
    with pytest.raises(ValueError, match="no autoencoder"):
        explained(alone, painted.examples)
