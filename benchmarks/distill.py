"""A wider teacher's features in PDN-small: what a second stage of pre-training is worth, by nearest neighbours.

    python -m benchmarks.distill --minutes 40 --out DIR      # DIR/distilled.safetensors, to be probed as any teacher
    python -m benchmarks.teacher_probe DIR/distilled.safetensors --part test --most 40 --json FILE

Begins as `pdn-small` and learns the features of `pdn-medium`, channel by channel in units of their deviation, on crops of the
pictures that both learned from and of generated textures, as they are and with painted flaws. The step size falls to nothing
over the minutes given. See docs/decisions/0006-teacher.md.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.training.network import IMAGE_MEAN, IMAGE_STD, Pdn, TeacherNetwork
from service.training.teacher import load_teacher, save_teacher
from service.training.teacher_views import draw_views, load_pictures

GENERAL = Path("../shared/datasets/general")
FOLDERS = ("clothing", "grocery", "textures_ccby")
GENERATED, BATCH, CROP, JITTER = 800, 8, 96, 2
RATE, WARM_UP, DECAY = 1e-3, 50, 1e-5
SAMPLE = 20  # batches from which the deviation of each channel is taken


class Crops:
    """float [2 x BATCH,3,CROP,CROP], normalised: crops as they are, then the same with painted flaws."""

    def __init__(self, seed: int) -> None:
        self.pictures = load_pictures([str(GENERAL / name) for name in FOLDERS], GENERATED, seed)
        self.rng = np.random.default_rng(seed)

    def draw(self) -> Tensor:
        """The next ones."""
        views = draw_views(self.pictures, BATCH, CROP, JITTER, self.rng)
        pixels = torch.from_numpy(np.concatenate([views.first, views.flawed])).permute(0, 3, 1, 2).float() / 255
        return (pixels - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[:, None, None]


@torch.no_grad()
def described(network: TeacherNetwork, crops: Tensor) -> Tensor:
    """The network's features, float32."""
    with torch.autocast("cpu", torch.bfloat16):
        features: Tensor = network(crops)
    return features.float()


def distil(wide: TeacherNetwork, small: Pdn, crops: Crops, minutes: float) -> int:
    """Teach `small` in place; the number of steps taken."""
    sample = torch.cat([described(wide, crops.draw()).transpose(0, 1).flatten(1) for _ in range(SAMPLE)], dim=1)
    spread = sample.std(dim=1)[:, None, None]
    optimiser = torch.optim.AdamW(small.parameters(), lr=RATE, weight_decay=DECAY)
    begun, step, losses = time.monotonic(), 0, []
    while (done := (time.monotonic() - begun) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * done)) / 2
        images = crops.draw()
        wanted = described(wide, images)
        with torch.autocast("cpu", torch.bfloat16):
            features = small(images)
        loss = ((features.float() - wanted) / spread).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step}: {np.mean(losses[-50:]):.4f} of the features' variance is missed", flush=True)
    return step


def main() -> None:
    """Distil, and keep the teacher with a card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    wide, start = load_teacher("pdn-medium"), load_teacher("pdn-small")
    small = Pdn("small")
    small.load_state_dict(start.network.state_dict())
    steps = distil(wide.network, small, Crops(options.seed), options.minutes)
    options.out.mkdir(parents=True, exist_ok=True)
    card = {"data": start.card["data"], "licence": start.card["licence"], "steps": start.card["steps"] + steps}
    print(save_teacher(small.eval(), "distilled", options.out, card | {"distilled_from": wide.name}))


if __name__ == "__main__":
    main()
