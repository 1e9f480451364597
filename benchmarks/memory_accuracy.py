"""How well memory names a flaw after few reviews: k-shot macro-F1, and how often a type never reviewed is called unknown.

From true masks: the teacher's features at working resolution, averaged under the mask, and the figures of shape and colour.
Sets: Magnetic Tile's five flaw types beside the checkout, and generated parts. Two ways to draw: `parts_apart` never asks about a
part that was reviewed (Magnetic Tile shows each part at up to six exposures); `any_picture` does, as most published figures do.
`--half choose` is what settings were chosen by; `report` the other half of the parts.

    python -m benchmarks.memory_accuracy --half report --json benchmarks/results/memory_accuracy.json
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from benchmarks.machine import describe
from benchmarks.teacher_probe import DATASETS, features
from service.captions.descriptor import FIGURES, case_descriptor
from service.captions.figures import describe_region_figures
from service.captions.memory import Memory
from service.captions.neighbours import bank, embed, fit_metric, vote
from service.captions.products import UNKNOWN
from service.image.decode import decode
from service.image.prepare import STRIDE, PrepareRecipe, resize, working_size
from service.records.entities import StoredCase
from service.samples import KINDS, flaw_types, render
from service.training.network import Pdn
from service.training.teacher import load_teacher

TILES = "magnetic_tile"
SHOTS = (1, 5, 10)
_RECIPES = {TILES: PrepareRecipe(rule="scale", value=0.75)}
_OTHER = PrepareRecipe(value=512)

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Flaw:
    """A flaw with its descriptor; flaws of one `part` are pictures of the same piece."""

    label: str
    part: str
    descriptor: NDArray[np.float32]


def tiles(most: int, rng: np.random.Generator) -> Iterator[tuple[str, str, Rgb, Mask]]:
    """(label, part, picture, mask) of Magnetic Tile, at most `most` a type; pictures with an empty mask are left out."""
    with (DATASETS / TILES / "split.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["class"] != "Free"]
    for label in sorted({row["class"] for row in rows}):
        mine = [row for row in rows if row["class"] == label]
        for index in sorted(rng.permutation(len(mine))[:most]):
            path = DATASETS / TILES / f"MT_{label}" / mine[index]["file"]
            with Image.open(path.with_suffix(".png")) as drawn:
                mask = np.asarray(drawn.convert("L")) > 127
            if mask.any():
                yield label, f"{label} {mine[index]['tile']}", decode(path.read_bytes(), 10**8), mask


def generated(kind: str, most: int) -> Iterator[tuple[str, str, Rgb, Mask]]:
    """(label, part, picture, mask) of generated parts, `most` a type."""
    for place, label in enumerate(flaw_types(kind)):
        for number in range(most):
            sample = render(kind, np.random.default_rng((place, number)), label)
            yield label, f"{label} {number}", sample.image, sample.mask


def descriptor(teacher: Pdn, rgb: Rgb, mask: Mask, recipe: PrepareRecipe) -> NDArray[np.float32]:
    """float32 [384 + FIGURES] of the pixels `mask`: a cell counts when any of its pixels does."""
    size = working_size(rgb.shape[1], rgb.shape[0], recipe)
    cells = features(teacher, resize(Image.fromarray(rgb), *size)).numpy()
    small = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 0
    inside = np.zeros(cells.shape[:2], bool)
    found = ndimage.maximum_filter(small, STRIDE)[::STRIDE, ::STRIDE]
    inside[: found.shape[0], : found.shape[1]] = found
    return case_descriptor(cells[inside].mean(axis=0), describe_region_figures(rgb, mask))


def flaws_of(name: str, teacher: Pdn, most: int, cache: Path) -> list[Flaw]:
    """The set's flaws, computed once and kept in `cache`."""
    kept = cache / f"{name}-{most}.npz"
    if not kept.is_file():
        source = tiles(most, np.random.default_rng(0)) if name == TILES else generated(name, most)
        recipe = _RECIPES.get(name, _OTHER)
        found = [(label, part, descriptor(teacher, rgb, mask, recipe)) for label, part, rgb, mask in source]
        labels, parts, vectors = zip(*found, strict=True)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(kept, labels=labels, parts=parts, vectors=np.stack(vectors))
    with np.load(kept) as data:
        return [
            Flaw(str(label), str(part), vector)
            for label, part, vector in zip(data["labels"], data["parts"], data["vectors"], strict=True)
        ]


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


def left_out(flaws: Sequence[Flaw], shots: int, draws: int) -> dict[str, Any]:
    """Each type in turn never reviewed, parts apart: share of it called unknown, and of the reviewed types' flaws called so
    too; share of either that memory answers alone."""
    names, labels = np.unique([flaw.label for flaw in flaws], return_inverse=True)
    parts = np.array([flaw.part for flaw in flaws])
    recall: dict[str, float] = {}
    false: list[bool] = []
    alone: dict[bool, list[bool]] = {True: [], False: []}
    for place, name in enumerate(names):
        hits: list[bool] = []
        for seed in range(draws):
            reviewed, queries = draw(labels, parts, shots, True, np.random.default_rng(seed))
            cases = (
                StoredCase(str(i), flaws[i].part, "", "", flaws[i].label, "", "", flaws[i].descriptor)
                for i in reviewed[labels[reviewed] != place]
            )
            memory = Memory(cases)
            for index in queries:
                found = memory.recall("", "", flaws[index].descriptor)
                if found is not None:
                    (hits if labels[index] == place else false).append(found.label == UNKNOWN)
                    alone[bool(labels[index] == place)].append(found.sure)
        recall[str(name)] = round(float(np.mean(hits)), 4)
    mean = round(float(np.mean(list(recall.values()))), 4)
    return {
        "unknown_recall": mean,
        "of_type": recall,
        "known_called_unknown": round(float(np.mean(false)), 4),
        "new_answered_alone": round(float(np.mean(alone[True])), 4),
        "known_answered_alone": round(float(np.mean(alone[False])), 4),
    }


def judge(name: str, flaws: Sequence[Flaw], draws: int) -> dict[str, Any]:
    """All figures of one set."""
    rows = [
        {
            "shots": shots,
            "drawn": drawn,
            "figures": figures,
            **few_shot(flaws, shots, draws, drawn == "parts_apart", figures),
        }
        for drawn in (("parts_apart", "any_picture") if name == TILES else ("any_picture",))
        for shots in SHOTS
        for figures in (True, False)
    ]
    return {
        "set": name,
        "flaws": len(flaws),
        "few_shot": rows,
        "left_out_10_shot": left_out(flaws, 10, max(1, draws // 5)),
    }


def main() -> None:
    """Print the figures; with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=(TILES, *KINDS), default=(TILES, *KINDS))
    parser.add_argument("--half", choices=("choose", "report", "all"), default="report")
    parser.add_argument("--most", type=int, default=120, help="flaws of a type of Magnetic Tile")
    parser.add_argument("--generated", type=int, default=30, help="flaws of a type of generated parts")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--teacher", default="pdn-small")
    parser.add_argument("--cache", type=Path, default=Path("runs/memory"), help="where descriptors are kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    teacher = load_teacher(options.teacher).network
    results = []
    for name in options.sets:
        most = options.most if name == TILES else options.generated
        flaws = flaws_of(name, teacher, most, options.cache)
        if name == TILES:  # nothing was chosen by the generated ones
            flaws = half(flaws, options.half)
        results.append(judge(name, flaws, options.draws))
        print(json.dumps(results[-1]), flush=True)
    if options.json is not None:
        content = {
            "machine": describe(),
            "teacher": options.teacher,
            "half": options.half,
            "draws": options.draws,
            "sets": results,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
