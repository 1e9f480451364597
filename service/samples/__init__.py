"""Sample parts made by our own code: pictures of good and flawed parts with pixel-true masks, in MVTec AD's layout."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from service.samples import blister_pack, brushed_metal, polka_dot
from service.samples.parts import Sample

_RENDERERS: dict[str, Callable[[np.random.Generator, str | None], Sample]] = {
    "polka-dot": polka_dot.render,
    "brushed-metal": brushed_metal.render,
    "blister-pack": blister_pack.render,
}
_FLAWS: dict[str, tuple[str, ...]] = {
    "polka-dot": tuple(polka_dot.FLAWS),
    "brushed-metal": tuple(brushed_metal.FLAWS),
    "blister-pack": blister_pack.FLAWS,
}
KINDS: tuple[str, ...] = tuple(_RENDERERS)
_PNG_LEVEL = 3


def flaw_types(kind: str) -> tuple[str, ...]:
    """The flaws that a kind of part can have. Raises ValueError for an unknown kind."""
    _require_known(kind)
    return _FLAWS[kind]


def render(kind: str, rng: np.random.Generator, flaw: str | None = None) -> Sample:
    """One picture of a part. The same generator state with and without a flaw shows the same part, lit the same way.

    Raises ValueError for an unknown kind or flaw.
    """
    if flaw is not None and flaw not in flaw_types(kind):
        raise ValueError(f"{kind} has no flaw {flaw!r}; it has: {', '.join(_FLAWS[kind])}")
    _require_known(kind)
    return _RENDERERS[kind](rng, flaw)


def write_dataset(
    kind: str,
    directory: Path,
    good: int,
    seed: int,
    flawed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `good` good parts each for train and test, and `flawed` of each flaw (default good // 5, at least 2).

    Picture k of a folder depends on kind, seed, folder and k alone, so a larger set contains a smaller one. Raises
    ValueError for an unknown kind, `good` below 1, or a folder that is not empty.
    """
    _require_known(kind)
    if good < 1:
        raise ValueError(f"at least one good part is needed, not {good}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is not an empty folder; choose a new one")
    each = max(2, good // 5) if flawed is None else flawed
    jobs: list[tuple[str, str | None, int]] = [(split, None, k) for split in ("train", "test") for k in range(good)]
    jobs += [("test", flaw, k) for flaw in flaw_types(kind) for k in range(each)]
    # in a neighbouring folder first: an interruption must not look like a finished set
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    for done, (split, flaw, index) in enumerate(jobs):
        _write(unfinished, split, flaw, index, render(kind, _generator(kind, seed, split, flaw, index), flaw))
        if progress is not None:
            progress(done + 1, len(jobs))
    if directory.exists():
        directory.rmdir()
    unfinished.rename(directory)


def _require_known(kind: str) -> None:
    if kind not in _RENDERERS:
        raise ValueError(f"no kind {kind!r}; there are: {', '.join(KINDS)}")


def _generator(kind: str, seed: int, split: str, flaw: str | None, index: int) -> np.random.Generator:
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
