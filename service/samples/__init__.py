"""Sample parts made by our own code: pictures of good and flawed parts with pixel-true masks, in MVTec AD's layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.samples import blister_pack, brushed_metal, polka_dot
from service.samples.parts import Sample
from service.samples.writer import Renderer, write_folder

__all__ = ["KINDS", "Sample", "flaw_types", "render", "write_dataset"]


@dataclass(frozen=True, slots=True)
class _Product:
    render: Renderer
    flaws: tuple[str, ...]


_PRODUCTS = {
    "polka-dot": _Product(polka_dot.render, tuple(polka_dot.FLAWS)),
    "brushed-metal": _Product(brushed_metal.render, tuple(brushed_metal.FLAWS)),
    "blister-pack": _Product(blister_pack.render, tuple(blister_pack.FLAWS)),
}
KINDS: tuple[str, ...] = tuple(_PRODUCTS)


def flaw_types(kind: str) -> tuple[str, ...]:
    """The flaws that a kind of part can have. Raises ValueError for an unknown kind."""
    return _product(kind).flaws


def render(kind: str, rng: np.random.Generator, flaw: str | None = None) -> Sample:
    """One picture of a part. The same generator state with and without a flaw shows the same part, lit the same way.

    The mask is where the flaw visibly changes the picture (for a missing, swapped or turned item: where the item is
    or should be). Raises ValueError for an unknown kind or flaw.
    """
    product = _product(kind)
    if flaw is not None and flaw not in product.flaws:
        raise ValueError(f"{kind} has no flaw {flaw!r}; it has: {', '.join(product.flaws)}")
    return product.render(rng, flaw)


def write_dataset(
    kind: str,
    directory: Path,
    good: int,
    seed: int,
    flawed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `good` good parts each for train and test, and `flawed` of each flaw (default good // 5, at least 2).

    Picture k of a folder depends on kind, seed, folder and k alone, so a larger set contains a smaller one. The folder
    appears whole or not at all; `progress` gets (pictures done, pictures in all). Raises ValueError for an unknown
    kind, `good` below 1, a negative `seed` or `flawed`, or a folder that is not empty.
    """
    product = _product(kind)
    each = max(2, good // 5) if flawed is None else flawed
    write_folder(kind, product.render, product.flaws, directory, good, seed, each, progress)


def _product(kind: str) -> _Product:
    if kind not in _PRODUCTS:
        raise ValueError(f"no kind {kind!r}; there are: {', '.join(KINDS)}")
    return _PRODUCTS[kind]
