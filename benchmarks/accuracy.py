"""Train a bundle per set with the shipped defaults, evaluate it, and keep one row a run; goes on where it was stopped.

    python -m benchmarks.accuracy --sets polka-dot brushed-metal blister-pack bottle --seeds 0
    python -m benchmarks.accuracy --sets bottle --keep DIR && python -m benchmarks.accuracy --sets bottle --keep DIR --layout free
    python -m benchmarks.accuracy --tables                # only the tables of docs/accuracy.md

Generated sets are made from 100 good parts for training; real ones lie in ../shared/datasets. Test images are used for the
figures alone. Rows: benchmarks/results/accuracy.json, and accuracy_free-layout.json with one measure of what is normal for
all places: of the same networks where the runs are kept, since a finished run is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.machine import describe
from benchmarks.pages import filled, markdown
from service.bundle.manifest import AUTO, FORM_FILES
from service.bundle.store import EngineOptions, load_bundle
from service.errors import BundleRefused, NotReady
from service.samples import KINDS, write_dataset
from service.training.build import build
from service.training.evaluate import TestImage, evaluate, find_test_images, score_all
from service.training.runs import BuildSettings
from service.types import LayoutChoice

RESULTS: dict[LayoutChoice, Path] = {
    "auto": Path("benchmarks/results/accuracy.json"),
    "free": Path("benchmarks/results/accuracy_free-layout.json"),
}
PAGE = Path("docs/accuracy.md")
DATASETS = Path("../shared/datasets")
REAL = ("bottle", "casting", "aliens", "cookies")
_FORM_IMAGES = 200  # the slowest form takes a second for each
_FIGURES = ("image_auroc", "overkill", "escape")
TILES = ("magnetic_tile:published", "magnetic_tile:grouped")
AIMS = (
    {"magnetic_tile published": 0.98, "magnetic_tile grouped": 0.95}
    | dict.fromkeys(KINDS, 0.99)
    | dict.fromkeys(REAL, 0.95)
    | {"bottle": 0.999}  # RIAD's, which learns from the product's own pictures alone
)


def prepare_set(name: str, seed: int, folder: Path) -> tuple[Path, str, str | None]:
    """The set as a folder in MVTec AD's layout, its split's name, and how parts are told apart."""
    if name in KINDS:
        target, unfinished = folder / name, folder / f"{name}.unfinished"
        if not target.exists():  # a kept one is the same
            shutil.rmtree(unfinished, ignore_errors=True)
            write_dataset(name, unfinished, 100, seed, flawed=20)
            unfinished.rename(target)
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
    target.unlink(missing_ok=True)  # of a run that was stopped
    target.symlink_to(source)


def run(
    name: str, seed: int, teacher: str, layout: LayoutChoice, keep: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
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
            layout=layout,
            group_by=group_by,
            seed=seed,
        )
        bundle_dir = build(settings, say)
        seconds = time.monotonic() - started
        bundle = load_bundle(bundle_dir, EngineOptions())
        images = find_test_images(data)
        result = evaluate(bundle, score_all(bundle, images))
        return {
            "set": name.partition(":")[0],
            "split": split,
            "network": bundle.manifest.network.size,
            "teacher": bundle.manifest.teacher.name,
            "teacher_sha256": bundle.manifest.teacher.sha256[:12],
            "recipe": "default",
            "layout": bundle.manifest.layout,
            "form": bundle.form_name,
            "seed": seed,
            "painted_flaws": round(bundle.manifest.metrics["painted_flaw_separation"], 4),
            "image_auroc": round(result.image_auroc, 4),
            "pixel_auroc": _rounded(result.pixel_auroc),
            "au_pro": _rounded(result.au_pro),
            "overkill": round(result.overkill.rate, 4),
            "escape": round(result.escape.rate, 4),
            "by_defect": {defect: round(row["image_auroc"], 4) for defect, row in result.by_defect.items()},
            "by_defect_pixel": {defect: _rounded(row["pixel_auroc"]) for defect, row in result.by_defect.items()},
            "forms": forms_of(bundle_dir, images),
            "seconds": round(seconds),
            "date": time.strftime("%Y-%m-%d"),
        }


def forms_of(folder: Path, images: Sequence[TestImage]) -> dict[str, dict[str, float]]:
    """The same figures of every form of the bundle that can be run here, each at its own thresholds, on the same few hundred
    pictures at most."""
    images = images[:: -(-len(images) // _FORM_IMAGES)]
    found = {}
    for name in FORM_FILES:
        with suppress(BundleRefused, NotReady):
            bundle = load_bundle(folder, EngineOptions(precision=name))
            result = evaluate(bundle, score_all(bundle, images))
            values = (result.image_auroc, result.overkill.rate, result.escape.rate)
            found[name] = {figure: round(value, 4) for figure, value in zip(_FIGURES, values, strict=True)}
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def forms_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a row and form: what is lost by a faster one."""
    lines = [
        {
            "set": f"{row['set']} {row['split']}".removesuffix(" given") + f", seed {row['seed']}" * (row["seed"] > 0),
            "form": f"{form}, served" if form == row["form"] else form,
            **figures,
        }
        for row in sorted(rows, key=lambda row: (row["set"], row["split"], row["seed"]))
        for form, figures in row.get("forms", {}).items()
    ]
    columns = {key: key.replace("_", " ").replace("auroc", "AUROC") for key in ("set", "form", *_FIGURES)}
    return markdown(lines, columns)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a set and split: mean over the seeds, and the spread where there are several."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["split"], f"{row['teacher']} {row['teacher_sha256'][:8]}"), []).append(row)

    def told(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        if not known:
            return "no masks"
        spread = f" ± {stdev(known):.3f}" if len(known) > 1 else ""
        return f"{mean(known):.3f}{spread}"

    lines = [
        "| set | split | teacher | seeds | image AUROC | aim | pixel AUROC | AU-PRO | overkill | escape | by flaw | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, split, teacher), same in sorted(groups.items()):
        figures = [
            told([row[key] for row in same]) for key in ("image_auroc", "pixel_auroc", "au_pro", "overkill", "escape")
        ]
        flaws = ", ".join(f"{flaw} {mean(row['by_defect'][flaw] for row in same):.3f}" for flaw in same[0]["by_defect"])
        cells = [
            name,
            split,
            teacher,
            str(len(same)),
            figures[0],
            str(AIMS.get(name, AIMS.get(f"{name} {split}"))),
            *figures[1:],
            flaws,
            f"{mean(row['seconds'] for row in same) / 60:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def layout_table() -> str:
    """One line for each network that was judged both ways."""
    lines = [
        "| set | seed | image AUROC, one measure | place by place | overkill, one measure | place by place "
        "| escape, one measure | place by place | forms | by flaw, one measure | place by place |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    placed = {(row["set"], row["split"], row["teacher"], row["seed"]): row for row in kept_rows("auto")["rows"]}
    for row in kept_rows("free")["rows"]:
        other = placed.get((row["set"], row["split"], row["teacher"], row["seed"]))
        if other is not None and other["layout"] and other.get("date") == row.get("date"):  # of the same network
            both = (row, other)
            figures = [f"{each[key]:.3f}" for key in _FIGURES for each in both]
            figures.append(", ".join(dict.fromkeys(each["form"] for each in both)))
            figures += [", ".join(f"{flaw} {value:.3f}" for flaw, value in each["by_defect"].items()) for each in both]
            lines.append(f"| {row['set']} | {row['seed']} | {' | '.join(figures)} |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """The page with both tables made anew from the result files."""
    kept = kept_rows("auto")
    machine = kept["machine"]
    sources = [f"[{file.name}](../{file})" for file in RESULTS.values()]
    named = f"{machine['processor']}, {machine['cores']} cores: "
    for part, told, source in (
        ("accuracy", table(kept["rows"]), sources[0]),
        ("layout", layout_table(), " and ".join(sources)),
        ("forms", forms_table(kept["rows"]), sources[0]),
    ):
        page = filled(page, part, f"{told}\n\n{named}{source}")
    return page


def kept_rows(layout: LayoutChoice) -> dict[str, Any]:
    """The result file's content, empty where there is none."""
    file = RESULTS[layout]
    return json.loads(file.read_text()) if file.exists() else {"machine": describe(), "rows": []}


def _is(row: dict[str, Any], name: str, split: str, seed: int, teacher: str) -> bool:
    """Whether the row is of that training; the teacher `auto` is any."""
    return (row["set"], row["split"], row["seed"]) == (name, split, seed) and teacher in (AUTO, row["teacher"])


def main() -> None:
    """Run what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[*KINDS, *REAL, *TILES], choices=[*KINDS, *REAL, *TILES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--teacher", default=AUTO)
    parser.add_argument("--layout", default="auto", choices=[*RESULTS])
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep data, bundles and runs there, to look at mistakes"
    )
    parser.add_argument("--again", action="store_true", help="make rows that are there anew; each stands until then")
    parser.add_argument("--tables", action="store_true", help="train nothing, write the table of docs/accuracy.md")
    options = parser.parse_args()
    for name in () if options.tables else options.sets:
        for seed in options.seeds:
            wanted = (name.partition(":")[0], name.partition(":")[2] or "given", seed, options.teacher)
            if not options.again and any(_is(row, *wanted) for row in kept_rows(options.layout)["rows"]):
                continue
            row = run(name, seed, options.teacher, options.layout, options.keep, lambda text: print(text, flush=True))
            print(row, flush=True)
            kept = kept_rows(options.layout)  # read anew: another process may have added rows meanwhile
            kept["rows"] = [*(other for other in kept["rows"] if not _is(other, *wanted)), row]
            RESULTS[options.layout].write_text(json.dumps(kept, indent=1) + "\n")
    PAGE.write_text(with_tables(PAGE.read_text()))


if __name__ == "__main__":
    main()
