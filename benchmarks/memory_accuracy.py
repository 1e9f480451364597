"""How well memory names a flaw after few reviews: k-shot macro-F1, how often it answers alone, and what it says of a type never
reviewed.

Sets: Magnetic Tile's five flaw types and the bottles beside the checkout, and generated parts. Descriptors are made twice: from
true masks, and from the regions that a served model detects (the strongest region that touches the flaw; a flaw without one cannot
be named and is counted as missed, in the whole set, not as wrong). A model that is not in `--models` is trained first, without the
global map.
With `--overkill` its review threshold is the one above which that share of the set's flawless test pictures lies: where a model
finds few flaws at its own threshold, memory has nothing to name.

Two ways to draw: `parts_apart` never asks about a part that was reviewed (Magnetic Tile shows each part at up to six exposures);
`any_picture` does, as most published figures do. `--half choose` is what settings were chosen by; `report` the other half of the
parts. With `figures: false` the figures of shape and colour are left out.

    python -m benchmarks.memory_accuracy --json benchmarks/results/memory_accuracy.json
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmarks.accuracy import prepare_set
from benchmarks.machine import describe as machine
from benchmarks.teacher_probe import DATASETS, Features, features
from service.bundle.load import Bundle
from service.bundle.store import EngineOptions, load_bundle
from service.captions.descriptor import FIGURES, MAKING, Surface, case_descriptor
from service.captions.figures import describe_region_figures
from service.captions.memory import Memory
from service.captions.neighbours import bank, embed, fit_metric, vote
from service.captions.products import UNKNOWN
from service.decision.regions import region_pixels
from service.image.decode import decode
from service.image.prepare import STRIDE, PrepareRecipe, prepare, resize, working_size
from service.inspector import decide, describe
from service.records.entities import StoredCase
from service.samples import KINDS, flaw_types, render
from service.training.build import build
from service.training.network import normalise
from service.training.runs import BuildSettings
from service.training.teacher import load_teacher

TILES, BOTTLE = "magnetic_tile", "bottle"
SETS = (TILES, BOTTLE, *KINDS)
SHOTS = (1, 5, 10)
_SOURCE = {TILES: "magnetic_tile:grouped"}  # no tile of the training set has a flaw
_RECIPES = {TILES: PrepareRecipe(rule="scale", value=1.0)}  # what training chooses for pictures of many sizes
_OTHER = PrepareRecipe(value=448)
_NEAR = 3  # cells

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]
Seen = tuple[str, str, Rgb, Mask]


@dataclass(frozen=True, slots=True)
class Flaw:
    """A flaw with its descriptor; flaws of one `part` are pictures of the same piece."""

    label: str
    part: str
    descriptor: NDArray[np.float32]


def tiles() -> Iterator[Seen]:
    """(label, part, picture, mask) of Magnetic Tile; pictures with an empty mask are left out."""
    with (DATASETS / TILES / "split.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["class"] != "Free"]
    for row in sorted(rows, key=lambda row: (row["class"], row["file"])):
        path = DATASETS / TILES / f"MT_{row['class']}" / row["file"]
        mask = _mask(path.with_suffix(".png"))
        if mask.any():
            yield row["class"], f"{row['class']} {row['tile']}", decode(path.read_bytes(), 10**8), mask


def bottles() -> Iterator[Seen]:
    """The same of MVTec AD's bottles."""
    root = DATASETS / BOTTLE
    for drawn in sorted(root.glob("ground_truth/*/*_mask.png")):
        label, stem = drawn.parent.name, drawn.stem.removesuffix("_mask")
        picture = next((root / "test" / label).glob(f"{stem}.*"))
        yield label, f"{label} {stem}", decode(picture.read_bytes(), 10**8), _mask(drawn)


def generated(kind: str, each: int) -> Iterator[Seen]:
    """The same of generated parts, `each` of a type."""
    for place, label in enumerate(flaw_types(kind)):
        for number in range(each):
            sample = render(kind, np.random.default_rng((place, number)), label)
            yield label, f"{label} {number}", sample.image, sample.mask


def source(name: str, each: int) -> Iterator[Seen]:
    return tiles() if name == TILES else bottles() if name == BOTTLE else generated(name, each)


def _mask(path: Path) -> Mask:
    with Image.open(path) as drawn:
        return np.asarray(drawn.convert("L")) > 127


def from_mask(teacher: Features, rgb: Rgb, mask: Mask, recipe: PrepareRecipe) -> NDArray[np.float32]:
    """The descriptor of the pixels `mask`: a cell counts when any of its pixels does."""
    size = working_size(rgb.shape[1], rgb.shape[0], recipe)
    cells = features(teacher, resize(Image.fromarray(rgb), *size)).numpy().astype(np.float16)
    small = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 0
    inside = np.zeros(cells.shape[:2], bool)
    found = ndimage.maximum_filter(small, STRIDE)[::STRIDE, ::STRIDE]
    inside[: found.shape[0], : found.shape[1]] = found
    near = ndimage.binary_dilation(inside, np.ones((3, 3)), iterations=_NEAR)
    around = next(cells_ for cells_ in (~near, ~inside, inside) if cells_.any())
    return case_descriptor(Surface(cells[around]).features(cells[inside]), describe_region_figures(rgb, mask))


def from_detection(bundle: Bundle, rgb: Rgb, mask: Mask, review: float | None) -> NDArray[np.float32] | None:
    """The descriptor of the strongest detected region that touches the pixels `mask`, as served with the model's own review
    threshold or a lower one; None when none does."""
    plan = bundle.plan(rgb.shape[1], rgb.shape[0])
    maps = bundle.session.run(prepare(rgb, plan), "maps and features")
    anomaly_map, verdict = decide(maps, bundle, plan, review, ())
    described = describe(maps, lambda: rgb, anomaly_map, verdict)
    assert described is not None
    found = zip(verdict.regions, region_pixels(anomaly_map, verdict.thresholds.review), described, strict=True)
    for region, pixels, descriptor in found:
        x, y, w, h = region.box
        if (mask[y : y + h, x : x + w] & pixels).any():
            return descriptor
    return None


def review_at(bundle: Bundle, flawless: Sequence[Path], share: float) -> float:
    """The threshold above which that share of the flawless pictures lies."""
    scores = []
    for path in flawless:
        rgb = decode(path.read_bytes(), 10**8)
        plan = bundle.plan(rgb.shape[1], rgb.shape[0])
        scores.append(decide(bundle.session.run(prepare(rgb, plan), plan.wanted), bundle, plan, None, ())[1].score)
    return float(np.quantile(scores, 1 - share))


def flawless_of(name: str, folder: Path) -> list[Path]:
    """The set's flawless test pictures."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        data, _, _ = prepare_set(_SOURCE.get(name, name), 0, Path(temporary))
        return [path.resolve() for path in sorted((data / "test" / "good").iterdir())]


def bundle_of(name: str, teacher: str, models: Path, cache: Path) -> Bundle:
    """The set's model; trained where it is not in `models`."""
    folder = models / name.replace("_", "-")
    versions = sorted(folder.glob("[0-9]*"), key=lambda path: int(path.name))
    if not versions:
        data, _, group_by = prepare_set(_SOURCE.get(name, name), 0, cache / "sets")
        settings = BuildSettings(
            data=data,
            name=folder.name,
            models_dir=models,
            runs_dir=cache / "runs",
            teacher=teacher,
            group_by=group_by,
            global_map=False,
            half=False,
        )
        versions = [build(settings, lambda text: print(text, flush=True))]
    return load_bundle(versions[-1], EngineOptions(provider="cpu"))


def kept(path: Path, name: str, each: int, make: Any) -> tuple[list[Flaw], int]:
    """The set's flaws by `make(rgb, mask)`, kept in `path`, and how many had none."""
    if not path.is_file():
        found = [(label, part, make(rgb, mask)) for label, part, rgb, mask in source(name, each)]
        labels, parts, vectors = zip(*(row for row in found if row[2] is not None), strict=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, labels=labels, parts=parts, vectors=np.stack(vectors), missed=len(found) - len(labels))
    with np.load(path) as data:
        rows = zip(data["labels"], data["parts"], data["vectors"], strict=True)
        return [Flaw(str(label), str(part), vector) for label, part, vector in rows], int(data["missed"])


def half(flaws: Sequence[Flaw], which: str) -> list[Flaw]:
    """`all`, or one half of each type's parts."""
    chosen: set[str] = set()
    for label in sorted({flaw.label for flaw in flaws}):
        parts = np.random.default_rng(0).permutation(sorted({flaw.part for flaw in flaws if flaw.label == label}))
        chosen |= {str(part) for part in parts[::2]}
    return [flaw for flaw in flaws if which == "all" or (flaw.part in chosen) == (which == "choose")]


def draw(
    labels: Indices, parts: NDArray[Any], shots: int, apart: bool, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """Indices of the reviewed flaws, at most `shots` a type, and of those asked about.

    Apart: a random half of each type's parts can be reviewed, each part once before any is twice, and the others are asked about.
    """
    reviewed, queries = [], []
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        if not apart:
            reviewed.append(mine[:shots])
            queries.append(mine[shots:])
            continue
        some = rng.permutation(np.unique(parts[mine]))
        there = np.isin(parts[mine], some[: max(1, len(some) // 2)])
        pool = mine[there]
        turn = [int((parts[pool[:place]] == parts[item]).sum()) for place, item in enumerate(pool)]
        reviewed.append(pool[np.argsort(turn, kind="stable")][:shots])
        queries.append(mine[~there])
    return np.concatenate(reviewed), np.concatenate(queries)


def macro_f1(truth: Indices, told: Indices) -> float:
    """Over the types that were asked about."""
    scores = []
    for label in np.unique(truth):
        hits = int(((truth == label) & (told == label)).sum())
        scores.append(2 * hits / int((truth == label).sum() + (told == label).sum()))
    return float(np.mean(scores))


def few_shot(flaws: Sequence[Flaw], shots: int, draws: int, apart: bool, figures: bool) -> dict[str, float]:
    """Mean macro-F1 of the vote's winner over `draws`, and its standard deviation."""
    names, labels = np.unique([flaw.label for flaw in flaws], return_inverse=True)
    parts = np.array([flaw.part for flaw in flaws])
    vectors = np.stack([flaw.descriptor for flaw in flaws])
    if not figures:
        vectors[:, -FIGURES:] = 0
    rows, scores = embed(vectors), []
    for seed in range(draws):
        reviewed, queries = draw(labels, parts, shots, apart, np.random.default_rng(seed))
        metric = fit_metric(rows[reviewed], labels[reviewed])
        known = bank(metric(rows[reviewed]), labels[reviewed], len(names))
        told = np.array([vote(known, query).winner for query in metric(rows[queries])])
        scores.append(macro_f1(labels[queries], told))
    return {"macro_f1": round(float(np.mean(scores)), 4), "sd": round(float(np.std(scores)), 4)}


def answers(flaws: Sequence[Flaw], shots: int, draws: int) -> dict[str, Any]:
    """What memory answers, parts apart: all types reviewed; and each type in turn never reviewed.

    Shares of the known types' flaws that it answers alone and rightly, alone and wrongly, and calls unknown; of the new type's
    flaws those that it answers alone, thus wrongly, and calls unknown, of all types alike.
    """
    names, labels = np.unique([flaw.label for flaw in flaws], return_inverse=True)
    parts = np.array([flaw.part for flaw in flaws])
    whole, known, new = [], [], {}
    for place in range(-1, len(names)):
        strange: list[tuple[bool, bool]] = []
        for seed in range(draws):
            reviewed, queries = draw(labels, parts, shots, True, np.random.default_rng(seed))
            memory = Memory(
                StoredCase(str(i), flaws[i].part, "", "", flaws[i].label, "", "", flaws[i].descriptor)
                for i in reviewed[labels[reviewed] != place]
            )
            for index in queries:
                found = memory.recall("", "", flaws[index].descriptor)
                assert found is not None
                right, unknown = found.label == flaws[index].label, found.label == UNKNOWN
                if labels[index] == place:
                    strange.append((found.sure, unknown))
                else:
                    (whole if place < 0 else known).append((found.sure and right, found.sure and not right, unknown))
        if place >= 0:
            new[str(names[place])] = [round(float(share), 4) for share in np.mean(strange, axis=0)]
    alone, unknown = np.mean(list(new.values()), axis=0)
    keys = ("right_alone", "wrong_alone", "called_unknown")
    shares = [[round(float(share), 4) for share in np.mean(rows, axis=0)] for rows in (whole, known)]
    return {
        "shots": shots,
        "all_reviewed": dict(zip(keys, shares[0], strict=True)),
        "one_left_out": {
            **{f"known_{key}": share for key, share in zip(keys, shares[1], strict=True)},
            "new_answered_alone": round(float(alone), 4),
            "new_called_unknown": round(float(unknown), 4),
            "new_alone_and_unknown_of": new,
        },
    }


def judge(flaws: Sequence[Flaw], missed: int, draws: int, both_ways: bool) -> dict[str, Any]:
    """All figures of one set."""
    rows = [
        {
            "shots": shots,
            "drawn": drawn,
            "figures": figures,
            **few_shot(flaws, shots, draws, drawn == "parts_apart", figures),
        }
        for drawn in (("parts_apart", "any_picture") if both_ways else ("any_picture",))
        for shots in SHOTS
        for figures in (True, False)
    ]
    told = [answers(flaws, shots, draws) for shots in SHOTS]
    return {"flaws": len(flaws), "missed": missed, "few_shot": rows, "answers": told}


def others(file: Path, heading: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `file` already tells of other sets, measured in the same way: sets may be measured one after another."""
    before = json.loads(file.read_text()) if file.is_file() else {}
    if any(before.get(key) != value for key, value in heading.items() if key != "machine"):
        return []
    fresh = [_which(each) for each in results]
    return [each for each in before["sets"] if _which(each) not in fresh]


def _which(result: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(result[key] for key in ("set", "regions", "overkill"))


def main() -> None:
    """Print the figures; with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--regions", nargs="+", choices=("masks", "detected"), default=("masks", "detected"))
    parser.add_argument("--half", choices=("choose", "report", "all"), default="report", help="of Magnetic Tile")
    parser.add_argument("--generated", type=int, default=30, help="flaws of a type of generated parts")
    parser.add_argument("--overkill", type=float, help="share of flawless pictures above the review threshold")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--teacher", default="pdn-small")
    parser.add_argument("--models", type=Path, default=Path("runs/memory/models"), help="where sets' models are")
    parser.add_argument("--cache", type=Path, default=Path("runs/memory"), help="where descriptors are kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    teacher = load_teacher(options.teacher)
    network: Features = lambda images: teacher.network(normalise(images))  # noqa: E731
    cache: Path = options.cache / f"{teacher.sha256[:12]}-{MAKING}"
    results = []
    for name in options.sets:
        for regions in options.regions:
            told: dict[str, Any] = {"set": name, "regions": regions, "overkill": None, "teacher": options.teacher}
            file = f"{name}-{regions}-{options.generated}"
            if regions == "masks":
                recipe = _RECIPES.get(name, _OTHER)
                make: Any = lambda rgb, mask, r=recipe: from_mask(network, rgb, mask, r)  # noqa: E731
            else:
                bundle = bundle_of(name, options.teacher, options.models, cache)
                told |= {"teacher": bundle.manifest.teacher.name, "overkill": options.overkill}
                file += f"-{bundle.manifest.teacher.sha256[:12]}"
                review = None
                if options.overkill is not None:
                    file += f"-{options.overkill}"
                    if not (cache / f"{file}.npz").is_file():
                        review = review_at(bundle, flawless_of(name, cache), options.overkill)
                make = lambda rgb, mask, b=bundle, r=review: from_detection(b, rgb, mask, r)  # noqa: E731
            flaws, missed = kept(cache / f"{file}.npz", name, options.generated, make)
            if name == TILES:  # the other sets helped to choose too, whole (docs/decisions/0014)
                flaws = half(flaws, options.half)
            results.append(told | judge(flaws, missed, options.draws, name == TILES))
            print(json.dumps(results[-1]), flush=True)
    if options.json is not None:
        heading = {
            "machine": machine(),
            "making": MAKING,
            "half": options.half,
            "draws": options.draws,
        }
        content = {**heading, "sets": [*others(options.json, heading, results), *results]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
