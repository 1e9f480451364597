"""The views of each step, drawn ahead: by one thread, or by worker processes where a GPU would wait for it. The views are the
same whoever draws them."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.training.teacher_views import Views, draw_views

_AHEAD = 3  # steps that a worker is ahead
Pictures = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn at each step: `batch` crops of `crop` px, matched places at most `jitter` px apart."""

    batch: int
    crop: int
    jitter: int
    seed: int

    def views(self, pictures: Pictures, step: int) -> Views:
        """The views of that step; its generator is its own, so that a resumed run sees the same crops."""
        rng = np.random.default_rng((self.seed, step))
        return draw_views(pictures, self.batch, self.crop, self.jitter, rng)


def drawn(drawing: Drawing, pictures: Pictures, steps: Sequence[int], workers: int = 0) -> Iterator[Views]:
    """The views of each of the `steps`, in their order, by so many processes, or by a thread when there are none."""
    if workers == 0:
        with ThreadPoolExecutor(1) as pool:
            yield from _ahead(lambda step: pool.submit(drawing.views, pictures, step), steps, 1)
        return
    with _in_a_file(pictures) as folder, ProcessPoolExecutor(workers, get_context("spawn")) as processes:
        draw = partial(_drawn_from, drawing, folder)
        try:
            yield from _ahead(lambda step: processes.submit(draw, step), steps, _AHEAD * workers)
        finally:
            processes.shutdown(cancel_futures=True)


def _ahead(submit: Callable[[int], Future[Views]], steps: Sequence[int], most: int) -> Iterator[Views]:
    """The results in the order of the steps, `most` of them under way while one is used."""
    waiting = deque[Future[Views]]()
    for step in steps:
        waiting.append(submit(step))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _in_a_file(pictures: Pictures) -> Iterator[str]:
    """A folder with all pixels in one file, which every process maps: they are in memory once."""
    with tempfile.TemporaryDirectory(prefix="flawscribe-views-") as folder:
        with (Path(folder) / "pixels").open("wb") as stream:
            for picture in pictures:
                stream.write(np.ascontiguousarray(picture).data)
        np.save(Path(folder) / "shapes.npy", np.array([picture.shape for picture in pictures], np.int64))
        yield folder


@lru_cache(maxsize=1)
def _mapped(folder: str) -> list[NDArray[np.uint8]]:
    """The pictures uint8 [H,W,3] of such a folder; opened once in a process."""
    shapes = np.load(Path(folder) / "shapes.npy")
    pixels = np.memmap(Path(folder) / "pixels", np.uint8, mode="r")
    ends = np.cumsum(shapes.prod(axis=1))
    return [pixels[end - shape.prod() : end].reshape(shape) for shape, end in zip(shapes, ends, strict=True)]


def _drawn_from(drawing: Drawing, folder: str, step: int) -> Views:
    return drawing.views(_mapped(folder), step)
