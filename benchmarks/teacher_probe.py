"""Ranks teachers in a few minutes on two cores: how well do their patch features tell flawed pictures from normal ones?

Features of normal pictures are whitened (PCA, shrunk) and put in a bank; a cell's anomaly is the distance to its
nearest neighbour there. Image AUROC by three scores (mean of the ten highest cells, peak of the 5x5-smoothed map, that
peak over the map's median), pixel AUROC, and image and pixel AUROC per flaw. `--part validation` judges by flaws painted on
held-out normals and is what choices are made by; `--part test` reports on the real flaws.

    python -m benchmarks.teacher_probe random pdn-small energies /tmp/run/small.pt --part validation
"""

from __future__ import annotations

import argparse
import atexit
import csv
import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from benchmarks.machine import describe, keep
from service.image.decode import decode
from service.image.prepare import CONTEXT, STRIDE, PrepareRecipe, resize, working_size
from service.samples import KINDS, write_dataset
from service.training.flaws import paint_flaw
from service.training.metrics import auroc
from service.training.neighbours import Bank
from service.training.network import Pdn, mixed_precision, normalise
from service.training.pretrain import teacher_of
from service.training.teacher import load_teacher

DATASETS = Path(__file__).resolve().parents[2] / "shared" / "datasets"
SETS = ("magnetic_tile", "bottle", "aliens", "cookies")
_RECIPES = {
    "magnetic_tile": PrepareRecipe(rule="scale", value=0.75)
}  # tiles are cut to many sizes at one magnification
_OBJECT = PrepareRecipe(value=256)
Features = Callable[[Tensor], Tensor]  # uint8 [1,H,W,3] -> float [1,C,H/4-8,W/4-8]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture at working resolution: uint8 [h,w,3], mask bool [h,w] (None: flawed, but nobody drew where)."""

    flaw: str  # "good" for a normal one
    rgb: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one teacher on one set; AUROCs 0..1."""

    teacher: str
    set: str
    part: str
    top_ten: float
    smoothed_peak: float
    peak_over_median: float
    pixel: float | None
    flaws: dict[str, float] = field(default_factory=dict)  # image AUROC by `top_ten`
    flaws_pixel: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0


def files_of(name: str, most: int, rng: np.random.Generator) -> tuple[list[Path], list[tuple[str, Path, Path | None]]]:
    """Normal training files, and test files as (flaw, picture, mask file); at most `most` of each kind."""
    if name == "magnetic_tile":
        root = DATASETS / name
        with (root / "split.csv").open() as lines:
            rows = [
                (row["class"], root / f"MT_{row['class']}" / row["file"], row["grouped_split"])
                for row in csv.DictReader(lines)
            ]
        train = [path for _, path, use in rows if use == "train"]
        test = [
            ("good" if kind == "Free" else kind, path, path.with_suffix(".png"))
            for kind, path, use in rows
            if use == "test"
        ]
    else:
        root = _generated(name) if name in KINDS else DATASETS / name
        train = sorted((root / "train" / "good").iterdir())
        test = [
            (path.parent.name, path, root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png")
            for path in sorted((root / "test").glob("*/*"))
        ]
    chosen = []
    for kind in sorted({kind for kind, _, _ in test}):
        of_kind = [item for item in test if item[0] == kind]
        limit = most if kind == "good" else most // 2
        chosen += [of_kind[int(index)] for index in sorted(rng.permutation(len(of_kind))[:limit])]
    # all shots of a tile together: what is held out must not have been seen in another light
    parts = sorted({_part(path) for path in train})
    place = {parts[int(index)]: number for number, index in enumerate(rng.permutation(len(parts)))}
    train = sorted(train, key=lambda path: (place[_part(path)], path))
    return train, [(k, p, m if m.exists() else None) for k, p, m in chosen]


@functools.cache
def _generated(kind: str) -> Path:
    """A folder of generated parts, of a batch that no other benchmark uses; kept until the program ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_dataset(kind, folder, good=60, seed=77, flawed=12)
    return folder


@functools.cache
def _tiles() -> dict[str, str]:
    """Of each file of magnetic_tile its tile."""
    with (DATASETS / "magnetic_tile" / "split.csv").open() as lines:
        return {row["file"]: row["tile"] for row in csv.DictReader(lines)}


def _part(path: Path) -> str:
    """Which part a picture shows: one tile was shot in several exposures."""
    return _tiles()[path.name] if "magnetic_tile" in path.parts else str(path)


def read(path: Path, mask_file: Path | None, flaw: str, recipe: PrepareRecipe) -> Picture:
    rgb = decode(path.read_bytes(), 10**8)
    size = working_size(rgb.shape[1], rgb.shape[0], recipe)
    mask = None
    if flaw == "good":
        mask = np.zeros(size[::-1], bool)
    elif mask_file is not None:
        with Image.open(mask_file) as drawn:
            mask = np.asarray(drawn.convert("L").resize(size, Image.Resampling.BOX)) > 0
        mask = mask if mask.any() else None
    return Picture(flaw, resize(Image.fromarray(rgb), *size), mask)


def pictures_of(name: str, part: str, most: int, seed: int) -> tuple[list[Picture], list[Picture]]:
    """Normal pictures for the bank, and those to judge. `validation`: held-out normals, plain and with painted flaws."""
    rng = np.random.default_rng(seed)
    recipe = _RECIPES.get(name, _OBJECT)
    train, test = files_of(name, most, rng)
    held_out = train[: max(8, min(most // 2, len(train) // 4))]
    shown = {_part(path) for path in held_out}
    others = [path for path in train[len(held_out) :] if _part(path) not in shown]
    normals = [read(path, None, "good", recipe) for path in others[:most]]
    if part == "test":
        return normals, [read(path, mask, flaw, recipe) for flaw, path, mask in test]
    clean = [read(path, None, "good", recipe) for path in held_out]
    painted = []
    for picture in clean * 2:
        rgb, mask = paint_flaw(picture.rgb, rng)
        painted.append(Picture("painted", rgb, mask))
    return normals, clean + painted


@torch.no_grad()
def features(teacher: Features, rgb: NDArray[np.uint8]) -> Tensor:
    """float32 [h/4, w/4, channels] of a picture uint8 [h,w,3]: one fully convolutional pass with 16 px of context."""
    rest = [(-side) % STRIDE for side in rgb.shape[:2]]
    canvas = np.pad(rgb, ((CONTEXT, CONTEXT + rest[0]), (CONTEXT, CONTEXT + rest[1]), (0, 0)), mode="reflect")
    found: Tensor = teacher(torch.from_numpy(canvas[None]))
    return found[0].float().permute(1, 2, 0)


def judge(teacher: Features, label: str, name: str, part: str, most: int, seed: int) -> Row:
    """One teacher on one set."""
    began = time.perf_counter()
    normals, judged = pictures_of(name, part, most, seed)
    bank = Bank((features(teacher, picture.rgb) for picture in normals), np.random.default_rng(seed))
    maps = [bank.distances(features(teacher, picture.rgb)) for picture in judged]
    flawed = np.array([picture.flaw != "good" for picture in judged])
    smooth = [ndimage.uniform_filter(values, 5, mode="nearest") for values in maps]
    top_ten = np.array([np.sort(values, axis=None)[-10:].mean() for values in maps])
    peak = np.array([values.max() for values in smooth])
    relative = np.array([values.max() / np.median(values) for values in smooth])
    kinds = sorted({picture.flaw for picture in judged} - {"good"})
    by_flaw, pixel_by_flaw = {}, {}
    for kind in kinds:
        used = np.array([picture.flaw in ("good", kind) for picture in judged])
        by_flaw[kind] = round(auroc(top_ten[used], flawed[used]), 4)
        shown = np.flatnonzero(used)
        pixel_by_flaw[kind] = _pixel_auroc([judged[index] for index in shown], [smooth[index] for index in shown])
    return Row(
        teacher=label,
        set=name,
        part=part,
        top_ten=round(auroc(top_ten, flawed), 4),
        smoothed_peak=round(auroc(peak, flawed), 4),
        peak_over_median=round(auroc(relative, flawed), 4),
        pixel=_pixel_auroc(judged, smooth),
        flaws=by_flaw,
        flaws_pixel=pixel_by_flaw,
        seconds=round(time.perf_counter() - began, 1),
    )


def _pixel_auroc(judged: Sequence[Picture], maps: Sequence[NDArray[np.float32]]) -> float | None:
    """Over cells, each flawed when any of its pixels is; pictures without a drawn mask are left out."""
    scores, masks = [], []
    for picture, values in zip(judged, maps, strict=True):
        if picture.mask is not None:
            spread = ndimage.maximum_filter(picture.mask, STRIDE)[::STRIDE, ::STRIDE]
            scores.append(values.ravel())
            masks.append(spread.ravel())
    mask = np.concatenate(masks)
    return round(auroc(np.concatenate(scores), mask), 4) if mask.any() else None


def teacher_named(spec: str) -> Features:
    """`random` (orthogonal weights), a checkpoint `*.pt` of a pre-training run, or a teacher's name or file."""
    if spec.endswith(".pt"):
        network = teacher_of(Path(spec))
    elif spec == "random":
        network = _random()
    else:
        network = load_teacher(spec).network

    def of_network(images: Tensor) -> Tensor:
        with mixed_precision(torch.device("cpu")):
            found: Tensor = network(normalise(images))
        return found

    return of_network


def _random() -> Pdn:
    torch.manual_seed(0)
    network = Pdn("small")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight, gain=2**0.5)
            nn.init.zeros_(module.bias)
    return network.eval().requires_grad_(False)


def main() -> None:
    """Print one line per teacher and set; with --json, write the rows too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", nargs="+")
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--sets", nargs="+", choices=(*SETS, *KINDS), default=SETS)
    parser.add_argument(
        "--most", type=int, default=100, help="pictures of a kind and set (flawed: half of that a flaw)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(max(1, min(2, torch.get_num_threads())))
    content = {"machine": describe(), "pictures_of_a_kind": options.most, "seed": options.seed, "rows": []}
    for spec in options.teachers:
        for name in options.sets:
            row = judge(teacher_named(spec), spec, name, options.part, options.most, options.seed)
            content["rows"].append(asdict(row))
            keep(content, options.json)
            print(
                f"{spec:24} {name:14} {row.top_ten:.3f} {row.smoothed_peak:.3f} {row.peak_over_median:.3f}"
                f"  pixel {row.pixel or float('nan'):.3f}  {row.seconds:.0f} s  {row.flaws}",
                flush=True,
            )


if __name__ == "__main__":
    main()
