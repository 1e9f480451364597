"""Train a bundle per set with the shipped defaults, evaluate it, and keep one row a run; goes on where it was stopped.

    python -m benchmarks.accuracy --sets polka-dot brushed-metal blister-pack bottle --seeds 0

Generated sets are made from 100 good parts for training; real ones lie in ../shared/datasets. Test images are used for the
figures alone. Rows: benchmarks/results/accuracy.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from service.bundle.store import EngineOptions, load_bundle
from service.samples import KINDS, write_dataset
from service.training.build import BuildSettings, build
from service.training.evaluate import evaluate, find_test_images, score_all

RESULTS = Path("benchmarks/results/accuracy.json")
DATASETS = Path("../shared/datasets")
REAL = ("bottle", "casting", "aliens", "cookies")
TILES = ("magnetic_tile:published", "magnetic_tile:grouped")


def prepare_set(name: str, seed: int, folder: Path) -> tuple[Path, str, str | None]:
    """The set as a folder in MVTec AD's layout, its split's name, and how parts are told apart."""
    if name in KINDS:
        target = folder / name
        write_dataset(name, target, 100, seed, flawed=20)
        return target, "given", None
    if name in REAL:
        return DATASETS / name, "given", None
    split = name.partition(":")[2]
    target = folder / f"magnetic_tile_{split}"
    source = (DATASETS / "magnetic_tile").resolve()
    with (source / "split.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            where = row[f"{split}_split"]
            found = next(iter(source.glob(f"MT_*/**/{row['file']}")))
            good = row["class"] == "Free"
            if where == "train" and good:
                link(found, target / "train" / "good" / f"tile{row['tile']}_{row['file']}")
            elif where == "test":
                kind = "good" if good else row["class"]
                link(found, target / "test" / kind / row["file"])
                mask = found.with_suffix(".png")
                if not good and mask.exists():
                    link(mask, target / "ground_truth" / kind / f"{found.stem}_mask.png")
    return target, split, r"tile(\d+)_"


def link(source: Path, target: Path) -> None:
    """A symbolic link, its folder made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def run(name: str, seed: int, teacher: str, keep: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and evaluate one bundle; data, bundle and run stay in a folder of `keep` where one is given."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if keep is None else keep / f"{name.replace(':', '-')}-{seed}"
        data, split, group_by = prepare_set(name, seed, folder)
        started = time.monotonic()
        settings = BuildSettings(
            data=data,
            name="run",
            models_dir=folder / "models",
            runs_dir=folder / "runs",
            teacher=teacher,
            group_by=group_by,
            seed=seed,
        )
        bundle_dir = build(settings, say)
        seconds = time.monotonic() - started
        bundle = load_bundle(bundle_dir, EngineOptions(provider="cpu"))
        result = evaluate(bundle, score_all(bundle, find_test_images(data)))
        return {
            "set": name.partition(":")[0],
            "split": split,
            "network": bundle.manifest.network.size,
            "teacher": bundle.manifest.teacher.name,
            "teacher_sha256": bundle.manifest.teacher.sha256[:12],
            "recipe": "default",
            "form": bundle.form_name,
            "seed": seed,
            "image_auroc": round(result.image_auroc, 4),
            "pixel_auroc": None if result.pixel_auroc is None else round(result.pixel_auroc, 4),
            "au_pro": None if result.au_pro is None else round(result.au_pro, 4),
            "overkill": round(result.overkill.rate, 4),
            "escape": round(result.escape.rate, 4),
            "by_defect": {defect: round(row["image_auroc"], 4) for defect, row in result.by_defect.items()},
            "seconds": round(seconds),
        }


def kept_rows() -> dict[str, Any]:
    """The result file's content, empty where there is none."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machine": describe(), "rows": []}


def main() -> None:
    """Run what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[*KINDS, *REAL, *TILES], choices=[*KINDS, *REAL, *TILES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--teacher", default="pdn-small")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep data, bundles and runs there, to look at mistakes"
    )
    options = parser.parse_args()
    for name in options.sets:
        for seed in options.seeds:
            wanted = (name.partition(":")[0], name.partition(":")[2] or "given", seed, options.teacher)
            if any((row["set"], row["split"], row["seed"], row["teacher"]) == wanted for row in kept_rows()["rows"]):
                continue
            row = run(name, seed, options.teacher, options.keep, lambda text: print(text, flush=True))
            print(row, flush=True)
            kept = kept_rows()  # read anew: another process may have added rows meanwhile
            kept["rows"].append(row)
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
