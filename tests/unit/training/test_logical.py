"""The logical map is kept where the autoencoder has learned something, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.engine.session import open_session
from service.image.prepare import PrepareRecipe
from service.training.export import Served, measure_parity, require_parity, to_onnx
from service.training.logical import explained, structural_alone, without_idle_autoencoder
from service.training.network import PDN_SIZES, TEACHER_CHANNELS, Autoencoder, Detector, Pdn, PdnSize
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


@pytest.mark.parametrize(
    ("share", "expected", "stays"),
    [
        (1.0, 1.0, True),
        (0.5, 0.75, True),
        (0.2, 0.36, True),
        (0.1, 0.19, False),
        (0.0, 0.0, False),
        (-1.0, -3.0, False),
    ],
)
def test_what_an_autoencoder_explains(
    painted: Selection, detector: Detector, share: float, expected: float, stays: bool
) -> None:
    knowing = Detector(detector.teacher, detector.student, Knowing(detector, share))
    knowing.load_state_dict(detector.state_dict(), strict=False)
    assert explained(knowing, painted.examples) == pytest.approx(expected, abs=0.02)  # bfloat16
    said: list[str] = []
    kept = without_idle_autoencoder(knowing, painted.examples, said.append)
    assert (kept is knowing) == stays == (not said)


class KnowingHalf(Knowing):
    """Gives what the teacher sees in the left half, and nothing in the right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        known = super().forward(x)
        known[..., known.shape[-1] // 2 :] = 0
        return known


def test_an_autoencoder_is_judged_where_parts_are_looked_at(detector: Detector) -> None:
    knowing = Detector(detector.teacher, detector.student, KnowingHalf(detector, 1.0))
    knowing.load_state_dict(detector.state_dict(), strict=False)
    shares = []
    for columns in (slice(0, 40), slice(100, 140), slice(None)):
        roi = np.zeros((100, 140), bool)
        roi[:, columns] = True
        looked = Selection(PICTURES, RECIPE, global_map=True, min_flaw_px=4, flaws_each=1, roi=roi)
        shares.append(explained(knowing, looked.examples))
    assert shares[0] == pytest.approx(1, abs=0.02)
    assert shares[1] == pytest.approx(0, abs=0.02)
    assert 0.2 < shares[2] < 0.8


@pytest.mark.parametrize("size", PDN_SIZES)
@torch.no_grad()
def test_what_is_left_is_the_same_structural_map(painted: Selection, size: PdnSize) -> None:
    torch.manual_seed(0)
    detector = Detector(Pdn(size), Pdn(size, 2 * TEACHER_CHANNELS), Autoencoder()).eval()
    detector.mean.fill_(0.01)
    detector.std.fill_(0.5)
    alone = structural_alone(detector)
    assert alone.autoencoder is None
    assert (alone.student.out_channels, detector.student.out_channels) == (TEACHER_CHANNELS, 2 * TEACHER_CHANNELS)
    windows = torch.from_numpy(painted.examples[0].windows[:1])
    before = detector(windows)[0]
    torch.testing.assert_close(alone(windows)[0], before)
    assert len(alone(windows)) == 2
    torch.testing.assert_close(Served(alone).eval()(windows)[0], before, rtol=1e-3, atol=1e-4)  # what is exported
    with pytest.raises(ValueError, match="no autoencoder"):
        explained(alone, painted.examples)


def test_what_is_left_of_a_medium_student_is_exported(painted: Selection) -> None:
    torch.manual_seed(0)
    detector = Detector(Pdn("medium"), Pdn("medium", 2 * TEACHER_CHANNELS), Autoencoder()).eval()
    alone = structural_alone(detector)
    windows = painted.examples[0].windows[:1]
    session = open_session(to_onnx(alone), form="float32", provider="cpu")
    assert session.run(windows).logical is None
    require_parity(measure_parity(alone, session, windows, (1,)))
