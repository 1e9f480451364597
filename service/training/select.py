"""How well a detector tells painted flaws from untouched held-out normals: chooses checkpoints and numerical forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.decision.scale import full_size, picture_map
from service.image.prepare import PrepareRecipe, plan_tiles, prepare
from service.training.flaws import paint_flaw
from service.training.metrics import auroc
from service.training.network import Detector
from service.types import TilePlan, WindowMaps

Runner = Callable[[NDArray[np.uint8]], WindowMaps]
_Q_A, _Q_B = 0.9, 0.995  # paper section 3.4


@dataclass(frozen=True, slots=True)
class Example:
    """A prepared picture: its plan, windows uint8 [n,256,256,3], and the mask of the flaw painted on it, if any."""

    plan: TilePlan
    windows: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None


class Selection:
    """Held-out normals, each as it is and with painted flaws; always the same ones for one seed."""

    def __init__(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        recipe: PrepareRecipe,
        *,
        global_map: bool,
        min_flaw_px: float,
        seed: int = 0,
        flaws_each: int = 2,
        window_limit: int = 60,
    ) -> None:
        self.min_flaw_px = min_flaw_px
        self.examples: list[Example] = []
        for index, rgb in enumerate(pictures):
            plan = plan_tiles(rgb.shape[1], rgb.shape[0], recipe, global_map=global_map)
            room = window_limit - sum(example.plan.windows for example in self.examples)
            if index > 1 and room < plan.windows * (1 + flaws_each):
                break
            self.examples.append(Example(plan, prepare(rgb, plan), None))
            for flaw in range(flaws_each):
                painted, mask = paint_flaw(rgb, np.random.default_rng((seed, index, flaw)))
                self.examples.append(Example(plan, prepare(painted, plan), mask))

    def score(self, detector: Detector) -> float:
        """Mean of image and pixel AUROC, 0..1, after setting the detector's quantiles on the untouched normals."""
        with torch.no_grad():
            detector.q_a.zero_()
            detector.q_b.fill_(0.1)
            raw = [run_torch(detector, example.windows) for example in self.examples]
            q_a, q_b = quantiles(raw, self.examples)
            detector.q_a.copy_(torch.from_numpy(q_a))
            detector.q_b.copy_(torch.from_numpy(q_b))
        return self.separation([_scaled(maps, q_a, q_b) for maps in raw])

    def separation_of(self, runner: Runner) -> float:
        """The same figure for any way of running the finished network (a numerical form in ONNX Runtime)."""
        return self.separation([runner(example.windows) for example in self.examples])

    def separation(self, maps: Sequence[WindowMaps]) -> float:
        """Mean of image and pixel AUROC of the scaled maps of all examples."""
        pairs = zip(self.examples, maps, strict=True)
        pictures = [picture_map(answer, example.plan, self.min_flaw_px) for example, answer in pairs]
        scores = np.array([picture.score for picture in pictures])
        flawed = np.array([example.mask is not None for example in self.examples])
        pixel = []
        for picture, example in zip(pictures, self.examples, strict=True):
            if example.mask is not None and example.mask.any() and not example.mask.all():
                thinned = full_size(picture.cells, picture.plan)[::2, ::2]
                mask = example.mask[::2, ::2]
                if mask.any() and not mask.all():
                    pixel.append(auroc(thinned.ravel(), mask.ravel()))
        return (auroc(scores, flawed) + float(np.mean(pixel))) / 2


def quantiles(
    maps: Sequence[WindowMaps], examples: Sequence[Example]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """q_a and q_b [2] (structural, logical) of the raw maps of the untouched normals, over the cells that are used."""
    clean = [pair for pair in zip(maps, examples, strict=True) if pair[1].mask is None]
    structural = np.concatenate([answer.structural[: len(example.plan.tiles)].ravel() for answer, example in clean])
    parts = [structural]
    if clean[0][0].logical is not None:
        # the logical map is read off the last window: the shrunk whole, or the only tile
        parts.append(np.concatenate([answer.logical[-1].ravel() for answer, _ in clean if answer.logical is not None]))
    low = [float(np.quantile(part, _Q_A)) for part in parts]
    high = [max(float(np.quantile(part, _Q_B)), bottom + 1e-6) for part, bottom in zip(parts, low, strict=True)]
    if len(parts) == 1:
        low, high = [*low, 0.0], [*high, 0.1]
    return np.array(low, np.float32), np.array(high, np.float32)


def _scaled(maps: WindowMaps, q_a: NDArray[np.float32], q_b: NDArray[np.float32]) -> WindowMaps:
    scale = np.float32(0.1) / (q_b - q_a)
    logical = None if maps.logical is None else (maps.logical - q_a[1]) * scale[1]
    return WindowMaps((maps.structural - q_a[0]) * scale[0], logical)


@torch.no_grad()
def run_torch(detector: Detector, windows: NDArray[np.uint8], batch: int = 4) -> WindowMaps:
    """The detector's maps of windows uint8 [n,256,256,3] in torch, float32, a few windows at a time."""
    device = detector.mean.device
    answers = [
        [
            part.float().cpu().numpy()
            for part in detector(torch.from_numpy(windows[start : start + batch]).to(device))[:-1]
        ]
        for start in range(0, len(windows), batch)
    ]
    joined = [np.concatenate(parts) for parts in zip(*answers, strict=True)]
    return WindowMaps(joined[0], joined[1] if len(joined) > 1 else None)
