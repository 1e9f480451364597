"""Which teacher and which light `flawscribe train` chooses for each set, and by what figures: minutes, and no training.

    python -m benchmarks.teacher_choice --json benchmarks/results/teacher_choice.json

Only normal training pictures are looked at, some with flaws painted on them; what a choice gives on real flaws is in
benchmarks/results/accuracy.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import REAL, TILES, prepare_set
from benchmarks.machine import describe, keep
from service.image.prepare import PrepareRecipe
from service.samples import KINDS
from service.training.build import JUDGE_FLAWS, JUDGE_WINDOWS, LIGHT_WINDOWS
from service.training.data import choose_recipe, decoding_scale, load_pictures, split_folder
from service.training.neighbours import CLEAR, GAIN, MOST, PREFERRED, separation
from service.training.select import Selection
from service.training.teacher import DEFAULT_DIRECTORY, Teacher, load_teacher


def figures(name: str, folder: Path) -> dict[str, Any]:
    """Each small teacher's figure on one set, and those of the better one in either light, as training compares them with
    seed 0."""
    data, _, group_by = prepare_set(name, 0, folder)
    splits = split_folder(data, group_by, 0)
    recipe = choose_recipe((*splits.train, *splits.validation, *splits.calibration), None)
    scale = decoding_scale((*splits.train, *splits.validation, *splits.calibration), recipe)
    held_out = load_pictures(splits.validation, scale)
    pictures = load_pictures(splits.train[:MOST], scale)

    def told(teacher: Teacher, light: PrepareRecipe, windows: int) -> float:
        judge = Selection(
            held_out,
            light,
            global_map=True,
            min_flaw_px=0,
            seed=1,
            flaws_each=JUDGE_FLAWS,
            window_limit=windows,
        )
        return round(separation(teacher.network, pictures, light, judge.examples), 4)

    teachers = [load_teacher(file.stem) for file in sorted(DEFAULT_DIRECTORY.glob("*.safetensors"))]
    found = {teacher.name: told(teacher, recipe, JUDGE_WINDOWS) for teacher in teachers if teacher.size == "small"}
    best = max(found, key=lambda each: found[each] + (GAIN if each == PREFERRED else 0))
    lights = [recipe, recipe.model_copy(update={"lighting": "even"})]
    lit = {light.lighting: told(load_teacher(best), light, LIGHT_WINDOWS) for light in lights}
    return {
        "figures": found,
        "teacher": best,
        "lights": lit,
        "lighting": "even" if lit["even"] > lit["as_is"] + CLEAR else "as_is",
    }


def main() -> None:
    """Print and keep a row a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*KINDS, *REAL, *TILES)
    parser.add_argument("--sets", nargs="+", choices=names, default=names)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(max(1, min(2, torch.get_num_threads())))
    rows = []
    for name in options.sets:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = figures(name, Path(folder))
        rows.append({"set": name, **found, "seconds": round(time.perf_counter() - began, 1)})
        print(name, found, flush=True)
        keep({"machine": describe(), "rows": rows}, options.json)


if __name__ == "__main__":
    main()
