"""What each part of EfficientAD's recipe is worth with our teachers, and image AUROC over compute of the default recipe
beside the paper's.

    python -m benchmarks.recipes --sets bottle brushed-metal --steps 400          # ablations
    python -m benchmarks.recipes --sets cookies --variants default "with penalty"   # some of them
    python -m benchmarks.recipes --sets bottle --curve                            # the same set, two recipes, more and more steps
    python -m benchmarks.recipes --sets bottle --steps 200 --teachers pdn-small pdn-medium energies   # short students of each

Each row is one training from the same pictures, teacher and seed, to the end of its steps, judged on the test images in bfloat16,
as training judges its checkpoints: without the forms that serve, and without what a finished training adds (a measure for each
place or relative to the picture's level, an idle autoencoder left out). `painted`: the same network's figure by flaws painted on
held-out normals, by which a recipe may be chosen, as by test images it may not. Rows `of the same
training` change how its maps are read and cost no training. The drop of the learning rate falls where each run ends. Compute is
counted in floating-point operations by PyTorch, so that it does not depend on what else the machine does. Results:
benchmarks/results/recipes.json, a row at a time; goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.accuracy import REAL, TILES, prepare_set
from benchmarks.machine import describe
from benchmarks.pages import Row, filled, markdown
from service.decision.scale import picture_map
from service.image.decode import decode
from service.image.prepare import plan_tiles, prepare
from service.samples import KINDS
from service.training.build import JUDGE_FLAWS
from service.training.data import MAX_PIXELS, choose_recipe, load_pictures, split_folder
from service.training.directions import look_along
from service.training.evaluate import find_test_images
from service.training.features import FeatureBank
from service.training.metrics import auroc
from service.training.neighbours import choose_teacher
from service.training.network import Detector, mixed_precision
from service.training.penalty import PenaltyImages
from service.training.recipes import Recipe, recipe_named
from service.training.select import Selection, run_torch
from service.training.teacher import load_teacher
from service.training.train import Trainer
from service.types import AnomalyMap, TilePlan, WindowMaps

RESULTS = Path("benchmarks/results/recipes.json")
PAGE = Path("docs/accuracy.md")
CURVE = {"default": (50, 100, 200, 400, 800), "paper": (200, 500, 1000, 2000)}


class Material:
    """A set made ready once for all its trainings, with the teacher that training chooses for it, or one by name."""

    def __init__(self, name: str, folder: Path, teacher: str | None = None) -> None:
        data, _, group_by = prepare_set(name, 0, folder)
        splits = split_folder(data, group_by, 0)
        self.recipe = choose_recipe((*splits.train, *splits.validation, *splits.calibration), None)
        pictures, self.held_out = (load_pictures(part) for part in (splits.train, splits.validation))
        image = splits.train[0]
        plan = plan_tiles(image.width, image.height, self.recipe, global_map=False)
        self.min_flaw_px = 8 * image.width / plan.working_width  # as training takes it by itself
        self.tests = find_test_images(data)
        judge = self.selection(1, global_map=True, each=JUDGE_FLAWS)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher = (
            choose_teacher(Path("models/teachers"), pictures, self.recipe, judge.examples, device, print)
            if teacher is None
            else load_teacher(teacher)
        )
        self.bank = FeatureBank(pictures, self.recipe, self.teacher.network.to(device))

    def selection(self, seed: int, *, global_map: bool, each: int = 2) -> Selection:
        """Painted flaws on held-out normals, as `build` has them."""
        return Selection(
            self.held_out,
            self.recipe,
            global_map=global_map,
            min_flaw_px=self.min_flaw_px,
            seed=seed,
            flaws_each=each,
        )


def train(material: Material, recipe: Recipe, *, global_map: bool, folder: Path) -> tuple[Detector, Selection, Row]:
    """One training, with the directions that its recipe looks along; how long it took and what work it was."""
    chooser = material.selection(0, global_map=global_map)
    trainer = Trainer(
        material.teacher.network, material.bank, PenaltyImages(None), chooser, recipe, global_map=global_map
    )
    with FlopCounterMode(display=False) as counter:
        trainer._loss(np.random.default_rng(0)).backward()  # type: ignore[no-untyped-call]
    began = time.monotonic()
    checkpoint = folder / "checkpoint.pt"
    checkpoint.unlink(missing_ok=True)
    detector = trainer.run(checkpoint)
    seconds = time.monotonic() - began
    if recipe.directions is not None:
        look_along(detector, recipe.directions, material.selection(2, global_map=False, each=3), chooser)
    steps = len(trainer.history.losses)
    work = steps * counter.get_total_flops() / 1e12
    return detector, chooser, {"steps": steps, "tflop": round(work, 1), "seconds": round(seconds)}


class Reader:
    """The test images' maps of one detector, read in several ways."""

    def __init__(self, material: Material, detector: Detector, chooser: Selection) -> None:
        self.painted = round(chooser.score(detector), 4)  # which also sets the quantiles, and the scale at the border
        self.local, self.detector, self.material = chooser.local, detector, material
        self.flawed = np.array([image.defect != "good" for image in material.tests])
        self.maps: list[tuple[WindowMaps, TilePlan]] = []
        for image in material.tests:
            rgb = decode(image.path.read_bytes(), MAX_PIXELS)
            plan = plan_tiles(rgb.shape[1], rgb.shape[0], material.recipe, global_map=detector.autoencoder is not None)
            with mixed_precision(detector.mean.device):
                self.maps.append((run_torch(detector, prepare(rgb, plan)), plan))

    def without_quantiles(self) -> float:
        """Both maps in the units in which the network gives them, so that the louder one rules; borders levelled as ever."""
        (low, low_logical), (high, high_logical) = self.detector.q_a.tolist(), self.detector.q_b.tolist()
        scores = []
        for maps, plan in self.maps:
            mapped = self._map(maps, plan)
            assert mapped.logical is not None
            structural = 10 * mapped.structural * (high - low) + low
            scores.append((structural + 10 * mapped.logical * (high_logical - low_logical) + low_logical).max())
        return round(auroc(np.array(scores), self.flawed), 4)

    def auroc(self, *, structural_only: bool = False) -> float:
        """Image AUROC of the served map, or of its structural half."""
        taken = [(WindowMaps(maps.structural) if structural_only else maps, plan) for maps, plan in self.maps]
        return round(auroc(np.array([self._map(maps, plan).score for maps, plan in taken]), self.flawed), 4)

    def _map(self, maps: WindowMaps, plan: TilePlan) -> AnomalyMap:
        return picture_map(maps, plan, self.material.min_flaw_px, None, self.local)


CHANGES: dict[str, Row] = {
    "default": {},
    "hard loss of the paper's 0.1 %": {"hard_share": 0.001},
    "no hard loss: all elements": {"hard_share": 1.0},
    "with penalty": {"penalty_batch": 1},
    "no autoencoder": {},
}


def ablations(material: Material, steps: int, folder: Path, variants: Sequence[str]) -> Iterator[Row]:
    """The default recipe, parts of it changed, and its maps read otherwise."""
    default = replace(recipe_named("default", 0), steps=steps, patience=None)
    for variant in variants:
        recipe = replace(default, **CHANGES[variant])
        detector, chooser, told = train(material, recipe, global_map=variant != "no autoencoder", folder=folder)
        reader = Reader(material, detector, chooser)
        if variant == "default":
            same = {**told, "penalty": recipe.penalty_batch, "of_the_same_training": True}
            yield {"variant": "no quantile normalisation", "image_auroc": reader.without_quantiles(), **same}
            yield {"variant": "the structural map alone", "image_auroc": reader.auroc(structural_only=True), **same}
            kept, detector.directions = detector.directions, None
            every = Reader(material, detector, chooser)
            yield {"variant": "all channels, no directions", "image_auroc": every.auroc(), **same}
            detector.directions = kept
        yield {
            "variant": variant,
            "penalty": recipe.penalty_batch,
            "image_auroc": reader.auroc(),
            "painted": reader.painted,
            **told,
        }


def student(material: Material, steps: int, folder: Path) -> Row:
    """A short training of the default recipe."""
    recipe = replace(recipe_named("default", 0), steps=steps, patience=None)
    detector, chooser, told = train(material, recipe, global_map=True, folder=folder)
    reader = Reader(material, detector, chooser)
    return {"image_auroc": reader.auroc(), "painted": reader.painted, **told}


def curve(material: Material, folder: Path, done: set[tuple[str, int]]) -> Iterator[Row]:
    """Both recipes, each with more and more steps, without those that are done."""
    for name, many in CURVE.items():
        for steps in many:
            if (name, steps) in done:
                continue
            recipe = replace(recipe_named(name, 0), steps=steps, patience=None)
            detector, chooser, told = train(material, recipe, global_map=True, folder=folder)
            reader = Reader(material, detector, chooser)
            row = {"image_auroc": reader.auroc(), "painted": reader.painted, **told}
            yield {"recipe": name, "penalty": recipe.penalty_batch, **row}


def keep(kind: str, row: Row) -> None:
    """Add a row to the result file, read anew: another process may have added some."""
    kept = kept_rows()
    kept[kind] = [*kept.get(kind, []), row]
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def kept_rows() -> dict[str, Any]:
    """The result file's content, empty where there is none."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machine": describe()}


def with_tables(page: str) -> str:
    """The page with both tables made anew from the result file."""
    kept = kept_rows()
    machine = kept["machine"]
    source = f"{machine['processor']}, {machine['cores']} cores: [{RESULTS.name}](../{RESULTS})"
    told = {
        "curve": {
            "set": "set",
            "recipe": "recipe",
            "penalty": "penalty images a step",
            "steps": "steps",
            "tflop": "TFLOP",
            "image_auroc": "image AUROC",
        },
        "ablations": {
            "set": "set",
            "variant": "variant",
            "penalty": "penalty images a step",
            "steps": "steps",
            "painted": "painted flaws",
            "image_auroc": "image AUROC",
        },
        "students": {
            "set": "set",
            "teacher": "teacher",
            "steps": "steps",
            "tflop": "TFLOP",
            "painted": "painted flaws",
            "image_auroc": "image AUROC",
        },
    }
    for part, columns in told.items():
        rows = sorted(
            kept.get(part, []), key=lambda row: (row["set"], row.get("recipe", ""), row["tflop"] * (part == "curve"))
        )
        page = filled(page, part, f"{markdown(rows, columns)}\n\n{source}")
    return page


def students(sets: Sequence[str], teachers: Sequence[str], steps: int) -> None:
    """A row for each set and teacher that has none of so many steps."""
    for name in sets:
        for teacher in teachers:
            if any(_same(row, set=name, teacher=teacher, steps=steps) for row in kept_rows().get("students", [])):
                continue
            with tempfile.TemporaryDirectory() as place:
                row = student(Material(name, Path(place), teacher), steps, Path(place))
            told = {"set": name, "teacher": teacher, **row}
            print(told, flush=True)
            keep("students", told)
    PAGE.write_text(with_tables(PAGE.read_text()))


def _same(row: Row, **told: Any) -> bool:
    return all(row[key] == value for key, value in told.items())


def main() -> None:
    """Run what has no row yet, then write the tables of docs/accuracy.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*KINDS, *REAL, *TILES)
    parser.add_argument("--sets", nargs="+", choices=names, default=["bottle", "brushed-metal"])
    parser.add_argument("--steps", type=int, default=400, help="of each ablation, at most")
    parser.add_argument("--variants", nargs="+", choices=[*CHANGES], default=[*CHANGES], help="of the ablations")
    parser.add_argument("--curve", action="store_true", help="AUROC over compute, in place of ablations")
    parser.add_argument("--teachers", nargs="+", metavar="NAME", help="a short student of each, in place of ablations")
    options = parser.parse_args()
    if options.teachers:
        students(options.sets, options.teachers, options.steps)
        return
    kind = "curve" if options.curve else "ablations"
    for name in options.sets:
        mine = [row for row in kept_rows().get(kind, []) if row["set"] == name]
        done = {row.get("variant") for row in mine if row["steps"] == options.steps}
        with tempfile.TemporaryDirectory() as place:
            ready, folder = Material(name, Path(place)), Path(place)
            found = (
                curve(ready, folder, {(row["recipe"], row["steps"]) for row in mine})
                if options.curve
                else ablations(ready, options.steps, folder, [each for each in options.variants if each not in done])
            )
            for row in found:
                told = {"set": name, "teacher": ready.teacher.name, **row}
                print(told, flush=True)
                keep(kind, told)
    PAGE.write_text(with_tables(PAGE.read_text()))


if __name__ == "__main__":
    main()
