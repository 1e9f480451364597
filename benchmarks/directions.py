"""How well flaws are told from good parts when the structural map looks along few directions of the teacher-student
difference, or along all channels as in the paper. One training a set with the default recipe, without the autoencoder; then
the same network by image AUROC (maximum of the map, and of its 3x3 mean) for each number of directions.

    python -m benchmarks.directions --sets magnetic_tile:grouped bottle cookies

The directions come from flaws painted on held-out normals; the figures from the test images. Results:
benchmarks/results/directions.json; goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from benchmarks.accuracy import REAL, TILES, prepare_set
from benchmarks.machine import describe
from service.decision.scale import stitch_features
from service.image.decode import decode
from service.image.prepare import plan_tiles, prepare
from service.samples import KINDS
from service.training.data import MAX_PIXELS, choose_recipe, load_pictures, split_folder
from service.training.directions import discriminant
from service.training.evaluate import find_test_images
from service.training.features import FeatureBank
from service.training.metrics import auroc
from service.training.network import TEACHER_CHANNELS
from service.training.penalty import PenaltyImages
from service.training.recipes import recipe_named
from service.training.select import Selection
from service.training.teacher import load_teacher
from service.training.train import Trainer

RESULTS = Path("benchmarks/results/directions.json")
COUNTS = (8, 16, 32, 64, 128, TEACHER_CHANNELS)


def run(name: str, steps: int, folder: Path) -> list[dict[str, Any]]:
    """One training, and a row for the paper's map and for each number of directions."""
    data, split, group_by = prepare_set(name, 0, folder)
    splits = split_folder(data, group_by, 0)
    prepared = choose_recipe((*splits.train, *splits.validation, *splits.calibration), None)
    teacher = load_teacher("pdn-small")
    pictures, held_out = (load_pictures(part) for part in (splits.train, splits.validation))
    bank = FeatureBank(pictures, prepared, teacher.network)

    def painted(seed: int, each: int, windows: int) -> Selection:
        return Selection(
            held_out,
            prepared,
            global_map=False,
            min_flaw_px=1,
            seed=seed,
            flaws_each=each,
            window_limit=windows,
        )

    recipe = replace(recipe_named("default", len(pictures)), steps=steps, patience=None)
    trainer = Trainer(teacher.network, bank, PenaltyImages(None), painted(0, 2, 60), recipe, global_map=False)
    detector = trainer.run(folder / "checkpoint.pt", lambda step, end, _: print(f"\r{name} {step}/{end}", end=""))
    turn = discriminant(detector, painted(2, 3, 120).examples, TEACHER_CHANNELS)
    flawed, peaks = [], {count: ([], []) for count in (0, *COUNTS)}
    for image in find_test_images(data):
        rgb = decode(image.path.read_bytes(), MAX_PIXELS)
        plan = plan_tiles(rgb.shape[1], rgb.shape[0], prepared, global_map=False)
        with torch.no_grad():
            difference = torch.cat(
                [detector.difference(window[None]) for window in torch.from_numpy(prepare(rgb, plan))]
            )
            squares = functional.conv2d(difference, turn[:, :, None, None]).square()
        maps = {0: difference.square().mean(dim=1, keepdim=True)}
        maps |= {count: squares[:, :count].mean(dim=1, keepdim=True) for count in COUNTS}
        for count, windows in maps.items():
            cells: NDArray[np.float32] = stitch_features(windows.numpy(), plan)[..., 0]
            peaks[count][0].append(cells.max())
            peaks[count][1].append(ndimage.uniform_filter(cells, 3, mode="nearest").max())
        flawed.append(image.defect != "good")
    return [
        {
            "set": name,
            "split": split,
            "steps": steps,
            "teacher_sha256": teacher.sha256[:12],
            "directions": count or None,  # None: the mean over all channels as they are
            "image_auroc": round(auroc(np.array(highest), np.array(flawed)), 4),
            "image_auroc_of_3x3_mean": round(auroc(np.array(smooth), np.array(flawed)), 4),
        }
        for count, (highest, smooth) in peaks.items()
    ]


def main() -> None:
    """Run what has no rows yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["magnetic_tile:grouped", "bottle", "cookies", "aliens"])
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    known = {*KINDS, *REAL, *TILES}
    if not known.issuperset(options.sets):
        parser.error(f"there are: {', '.join(sorted(known))}")
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machine": describe(), "rows": []}
    for name in options.sets:
        if any(row["set"] == name and row["steps"] == options.steps for row in kept["rows"]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows = run(name, options.steps, Path(folder))
        kept["rows"] += rows
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        for row in rows:
            print(row)


if __name__ == "__main__":
    main()
