"""A folder of sample parts in MVTec AD's layout."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from service.samples.parts import Sample

_PNG_LEVEL = 3  # higher levels cost more time than drawing and save little on noisy pictures
Renderer = Callable[[np.random.Generator, str | None], Sample]


def write_folder(
    kind: str,
    renderer: Renderer,
    flaws: Sequence[str],
    directory: Path,
    good: int,
    seed: int,
    flawed: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write `good` good parts each for train and test, and `flawed` of each flaw.

    Raises ValueError when the folder is in use or a count or the seed makes no sense.
    """
    _require_sensible(directory, good, seed, flawed)
    jobs: list[tuple[str, str | None, int]] = [(split, None, k) for split in ("train", "test") for k in range(good)]
    jobs += [("test", flaw, k) for flaw in flaws for k in range(flawed)]
    place = directory.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    # in a neighbouring folder first: an interruption must not look like a finished set
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.unfinished-", dir=place.parent) as unfinished:
        root = Path(unfinished) / "set"
        for done, (split, flaw, index) in enumerate(jobs):
            _write(root, split, flaw, index, renderer(_generator(kind, seed, split, flaw, index), flaw))
            if progress is not None:
                progress(done + 1, len(jobs))
        _put(root, place)


def _require_sensible(directory: Path, good: int, seed: int, flawed: int) -> None:
    if good < 1:
        raise ValueError(f"at least one good part is needed, not {good}")
    if flawed < 0:
        raise ValueError(f"the number of flawed parts cannot be {flawed}; give 0 or more")
    if seed < 0:
        raise ValueError(f"the seed cannot be {seed}; give 0 or more")
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; name a new folder")
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not an empty folder; empty it or name a new one")


def _put(root: Path, place: Path) -> None:
    """Rename the finished set into place; a folder already there (perhaps a mounted one) is kept and filled."""
    if not place.exists():
        root.rename(place)
        return
    for part in ("ground_truth", "test", "train"):  # train last: without it nothing takes this for a set
        if (root / part).exists():
            shutil.move(root / part, place / part)


def _generator(kind: str, seed: int, split: str, flaw: str | None, index: int) -> np.random.Generator:
    """Picture `index` depends on nothing else, so that a larger set contains a smaller one."""
    place = zlib.crc32(f"{kind}/{split}/{flaw}".encode())
    return np.random.default_rng((seed, place, index))


def _write(root: Path, split: str, flaw: str | None, index: int, sample: Sample) -> None:
    folder = root / split / (flaw or "good")
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.image).save(folder / f"{index:03}.png", compress_level=_PNG_LEVEL)
    if flaw is not None:
        masks = root / "ground_truth" / flaw
        masks.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.mask.astype(np.uint8) * 255).save(masks / f"{index:03}_mask.png")
