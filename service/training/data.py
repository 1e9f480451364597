"""A folder of images -> disjoint splits of prepared pictures. Everything wrong with the folder is said before training."""

from __future__ import annotations

import hashlib
import math
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
from service.image.folder import pictures_below
from service.image.prepare import STEP, PrepareRecipe, jpeg_scale, working_size
from service.settings import Settings
from service.training.memory import available_memory

MAX_PIXELS = 256_000_000
_DEFAULT_LONG_SIDE = 2 * STEP  # px: 2x2 windows; small flaws in large pictures need more (--working-size)
_FEWEST = 10  # parts
_COPIES = "{} pictures are copies of others: what shares a picture counts as one part"
_MOST_MEMORY = 0.5  # share of what is left, for decoded pictures: features, gradients and the forms come on top


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
    """Normal images by use, disjoint by part. `validation`: quantiles and choice of checkpoint; `calibration`: thresholds.

    In each, parts come in no order, with one shot of every part before the second of any: the first few stand for all.
    """

    train: tuple[NormalImage, ...]
    validation: tuple[NormalImage, ...]
    calibration: tuple[NormalImage, ...]
    notes: tuple[str, ...]  # what a person should know about the folder

    @property
    def images(self) -> tuple[NormalImage, ...]:
        """All of them: train, then validation, then calibration."""
        return (*self.train, *self.validation, *self.calibration)

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
    files = pictures_below(root)
    names = [os.fsencode(path.relative_to(root)) for path in files]
    if odd := [
        name for name in names if not _is_utf8(name)
    ]:  # they would be in the manifest, the report and the answers
        raise BadRequest(
            f"the names of {len(odd)} pictures in {root} are not UTF-8, such as {odd[0]!r}: rename them, for instance by "
            "`convmv -r -f latin1 -t utf8 --notest FOLDER`"
        )
    return files


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def split_folder(directory: Path, group_by: str | None = None, seed: int = 0) -> Splits:
    """Read every header, group shots by part, and split the parts 70 % / 10 % / 20 %.

    `group_by`: regular expression searched in the path below the folder; its first group that takes part (or
    the match) names the part. Raises BadRequest naming unreadable files, a wrong expression, or too few parts.
    """
    files = find_images(directory)
    parts = [_part(path.relative_to(directory).as_posix(), group_by) for path in files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        headers = list(pool.map(_header, files))
        require_readable(files, headers)
        contents = list(pool.map(_digest, files))
    copies = len(contents) - len(set(contents))
    parts = _merged(parts, contents)
    images = [
        NormalImage(path, part, header.width, header.height, header.format == "JPEG")
        for path, part, header in zip(files, parts, headers, strict=True)
        if not isinstance(header, str)
    ]
    names = sorted(set(parts))
    if len(names) < _FEWEST:
        raise BadRequest(f"{len(names)} parts in {directory}; at least {_FEWEST} are needed, 100 or more are advised")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(names))
    calibration = max(3, round(0.2 * len(names)))
    validation = max(2, round(0.1 * len(names)))
    place = {names[index]: place for place, index in enumerate(order)}
    shots: dict[str, list[NormalImage]] = {names[index]: [] for index in order}
    for index in rng.permutation(len(images)):
        shots[images[index].part].append(images[index])
    rounds = [(turn, place[part], image) for part, taken in shots.items() for turn, image in enumerate(taken)]
    mixed = [image for _, _, image in sorted(rounds, key=lambda each: each[:2])]
    return Splits(
        train=tuple(image for image in mixed if place[image.part] >= calibration + validation),
        validation=tuple(image for image in mixed if calibration <= place[image.part] < calibration + validation),
        calibration=tuple(image for image in mixed if place[image.part] < calibration),
        notes=(*_notes(images), *([_COPIES.format(copies)] if copies else ())),
    )


def _merged(parts: Sequence[str], contents: Sequence[str]) -> list[str]:
    """The parts, those that share a picture's content as one: a copy that sets thresholds must not have been learned."""
    leader = {part: part for part in parts}

    def leading(part: str) -> str:
        while leader[part] != part:
            part = leader[part]
        return part

    first: dict[str, str] = {}
    for part, content in zip(parts, contents, strict=True):
        one, other = sorted((leading(first.setdefault(content, part)), leading(part)))
        leader[other] = one
    return [leading(part) for part in parts]


def require_readable(files: Sequence[Path], found: Sequence[object]) -> None:
    """Raises BadRequest naming the files, up to ten, of which a text was found: why they cannot be read."""
    unreadable = [f"{path}: {each}" for path, each in zip(files, found, strict=True) if isinstance(each, str)]
    if unreadable:
        shown = "\n  ".join(unreadable[:10])
        raise BadRequest(f"{len(unreadable)} of {len(files)} images cannot be read; remove or mend them:\n  {shown}")


def _part(name: str, group_by: str | None) -> str:
    if group_by is None:
        return name
    try:
        match = re.search(group_by, name)
    except re.error as error:
        raise BadRequest(f"--group-by {group_by!r} is not a regular expression: {error}") from error
    if match is None:
        raise BadRequest(f"--group-by {group_by!r} does not match {name!r}")
    taken = (group for group in match.groups() if group is not None)  # of alternatives only one takes part
    return next(taken, match.group(0))


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
    served = float(Settings.model_fields["max_megapixels"].default)
    largest = max(image.width * image.height for image in images) / 1e6
    if largest > served:
        notes.append(
            f"pictures of {largest:.0f} million px: the service takes {served:.0f} until FLAWSCRIBE_MAX_MEGAPIXELS says more"
        )
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


def require_memory(images: Sequence[NormalImage], scale: int, recipe: PrepareRecipe) -> None:
    """Raises BadRequest when `images`, decoded at 1/`scale`, take more than half of the memory that is left: all of them
    are held while a model is trained."""
    needed = sum(image.width * image.height * 3 for image in images) / scale**2
    available = available_memory()
    if available is None or needed <= _MOST_MEMORY * available:
        return
    share = _MOST_MEMORY * available / needed
    largest = max(images, key=lambda image: image.width * image.height)
    long_side, working = max(largest.width, largest.height), max(working_size(largest.width, largest.height, recipe))
    fitting = long_side / scale * math.sqrt(share)
    ways = []
    if share * len(images) >= _FEWEST:
        ways.append(f"take at most {int(share * len(images))} of them")
    if fitting >= working:
        times = math.floor(10 * fitting / working) / 10
        ways.append(f"shrink them to {int(fitting)} px, {times:g} times the working size, here and on the line")
    if scale == 1 and long_side >= 2 * working:
        ways.append("store them as JPEGs of one size with sides that 8 divides, which are decoded at a smaller scale")
    ways.append("give it more memory")
    raise BadRequest(
        f"{len(images)} pictures of up to {largest.width}x{largest.height} px take {needed / 1e9:.1f} GB when decoded, more "
        f"than half of the {available / 1e9:.1f} GB of memory that are left here: {', or '.join(ways)}"
    )


def load_pictures(images: Sequence[NormalImage], scale: int = 1) -> list[NDArray[np.uint8]]:
    """Decoded pictures uint8 [H,W,3], by the same decoder that serves, JPEGs at 1/`scale` of their size.

    Raises BadRequest naming all those that are damaged behind their header.
    """

    def load(image: NormalImage) -> NDArray[np.uint8] | str:
        try:
            return decode(image.path.read_bytes(), MAX_PIXELS, jpeg_scale=scale)
        except FlawscribeError as error:
            return error.detail

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(load, images))
    require_readable([image.path for image in images], found)
    return [picture for picture in found if not isinstance(picture, str)]
