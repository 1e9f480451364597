"""A folder of images -> disjoint splits of prepared pictures. Everything wrong with the folder is said before training."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequest, FlawscribeError
from service.image.decode import PictureHeader, decode, read_header
from service.image.prepare import STEP, PrepareRecipe, jpeg_scale

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 256_000_000
_DEFAULT_LONG_SIDE = 2 * STEP  # px: 2x2 windows; small flaws in large pictures need more (--working-size)
_FEWEST = 10  # parts


@dataclass(frozen=True, slots=True)
class NormalImage:
    """One file of the training folder: its size as displayed, the part that it shows, and whether it is a JPEG."""

    path: Path
    part: str
    width: int
    height: int
    jpeg: bool = False


@dataclass(frozen=True, slots=True)
class Splits:
    """Normal images by use, disjoint by part. `validation`: quantiles and choice of checkpoint; `calibration`: thresholds."""

    train: tuple[NormalImage, ...]
    validation: tuple[NormalImage, ...]
    calibration: tuple[NormalImage, ...]
    notes: tuple[str, ...]  # what a person should know about the folder

    def fingerprint(self) -> str:
        """sha256 over the names, parts, uses and contents of all images."""
        images = [(use, image) for use in ("train", "validation", "calibration") for image in getattr(self, use)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            contents = pool.map(_digest, (image.path for _, image in images))
        lines = [
            f"{use} {image.path.name} {image.part} {content}"
            for (use, image), content in zip(images, contents, strict=True)
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_images(directory: Path) -> list[Path]:
    """Images of `train/good` in an MVTec-like tree, else all below the folder; sorted. Raises BadRequest when none."""
    if not directory.is_dir():
        raise BadRequest(f"{directory} is not a folder")
    root = directory / "train" / "good" if (directory / "train" / "good").is_dir() else directory
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not files:
        raise BadRequest(f"no image in {root}; read are: {', '.join(sorted(IMAGE_SUFFIXES))}")
    return files


def split_folder(directory: Path, group_by: str | None = None, seed: int = 0) -> Splits:
    """Read every header, group shots by part, and split the parts 70 % / 10 % / 20 %.

    `group_by`: regular expression searched in the path below the folder; its first group (or the match) names the
    part. Raises BadRequest naming unreadable files, a wrong expression, or too few parts.
    """
    files = find_images(directory)
    parts = [_part(path.relative_to(directory).as_posix(), group_by) for path in files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        headers = list(pool.map(_header, files))
    unreadable = [f"{path.name}: {each}" for path, each in zip(files, headers, strict=True) if isinstance(each, str)]
    if unreadable:
        shown = "\n  ".join(unreadable[:10])
        raise BadRequest(f"{len(unreadable)} of {len(files)} images cannot be read; remove or mend them:\n  {shown}")
    images = [
        NormalImage(path, part, header.width, header.height, header.format == "JPEG")
        for path, part, header in zip(files, parts, headers, strict=True)
        if not isinstance(header, str)
    ]
    names = sorted(set(parts))
    if len(names) < _FEWEST:
        raise BadRequest(f"{len(names)} parts in {directory}; at least {_FEWEST} are needed, 100 or more are advised")
    order = np.random.default_rng(seed).permutation(len(names))
    calibration = max(3, round(0.2 * len(names)))
    validation = max(2, round(0.1 * len(names)))
    use = {names[index]: place for place, index in enumerate(order)}
    return Splits(
        train=tuple(image for image in images if use[image.part] >= calibration + validation),
        validation=tuple(image for image in images if calibration <= use[image.part] < calibration + validation),
        calibration=tuple(image for image in images if use[image.part] < calibration),
        notes=tuple(_notes(images)),
    )


def _part(name: str, group_by: str | None) -> str:
    if group_by is None:
        return name
    try:
        match = re.search(group_by, name)
    except re.error as error:
        raise BadRequest(f"--group-by {group_by!r} is not a regular expression: {error}") from error
    if match is None:
        raise BadRequest(f"--group-by {group_by!r} does not match {name!r}")
    return match.group(1) if match.groups() else match.group(0)


def _header(path: Path) -> PictureHeader | str:
    try:
        return read_header(path.read_bytes(), MAX_PIXELS)
    except FlawscribeError as error:
        return error.detail


def _notes(images: Sequence[NormalImage]) -> list[str]:
    sizes = {(image.width, image.height) for image in images}
    notes = []
    if len(sizes) > 1:
        widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
        notes.append(
            f"mixed sizes: {len(sizes)} different, {min(widths)}-{max(widths)} px wide, {min(heights)}-{max(heights)} high"
        )
    if len(images) < 50:
        notes.append(f"only {len(images)} images: thresholds will be extrapolated and rough; 100 or more are advised")
    return notes


def choose_recipe(images: Sequence[NormalImage], working_size: int | None) -> PrepareRecipe:
    """The working resolution: `working_size` px for the longer side, by default 448 or the pictures' own if smaller.

    Pictures cut to different sizes and shapes share one scale instead, so that a pixel means the same on each. Where all
    are JPEGs that can be decoded at one smaller scale, they are, when training and when serving.
    """
    long_sides = [max(image.width, image.height) for image in images]
    target = working_size or min(_DEFAULT_LONG_SIDE, max(STEP, int(np.median(long_sides))))
    aspects = [image.width / image.height for image in images]
    if max(long_sides) > 1.15 * min(long_sides) and max(aspects) > 1.15 * min(aspects):
        return PrepareRecipe(rule="scale", value=round(target / float(np.median(long_sides)), 6))
    recipe = PrepareRecipe(rule="long_side", value=target, jpeg="scaled")
    return recipe if decoding_scale(images, recipe) > 1 else recipe.model_copy(update={"jpeg": "full"})


def decoding_scale(images: Sequence[NormalImage], recipe: PrepareRecipe) -> int:
    """s where all of `images` are JPEGs that the recipe decodes at 1/s; 1 where they are not, or not at the same scale."""
    scales = {jpeg_scale(image.width, image.height, recipe) if image.jpeg else 1 for image in images}
    return scales.pop() if len(scales) == 1 else 1


def load_pictures(images: Sequence[NormalImage], scale: int = 1) -> list[NDArray[np.uint8]]:
    """Decoded pictures uint8 [H,W,3], by the same decoder that serves, JPEGs at 1/`scale` of their size."""

    def load(image: NormalImage) -> NDArray[np.uint8]:
        return decode(image.path.read_bytes(), MAX_PIXELS, jpeg_scale=scale)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(load, images))
