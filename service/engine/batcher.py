"""Queue -> batch -> futures. One thread drives the device; when it is free it takes everything that waits for the model
whose turn it is, no timer.

The bound counts windows and is taken before decoding. A model that has less than an even share of it is let in beyond it,
and models take turns, so that a busy one neither shuts the others out nor makes them wait for all that it has queued.
Every future is resolved on every path: done, expired, departed, failed, or orphaned by the thread's death.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, FlawscribeError, NetworkFailure, NotReady, Overloaded, TooLarge
from service.types import Wanted, WindowMaps

log = logging.getLogger("flawscribe.batcher")
Number = TypeVar("Number", bound=np.generic)
MOST_WINDOWS = 64  # in the queue where no other bound is asked for
_WAIT_S = 0.5
_FEW = 8  # pictures that are let in however slow the device is: a trigger of several cameras is no overload
_UNKNOWN_S = 0.1  # of a window before the first batch


class Runner(Protocol):
    """What the batcher drives: a network session. Its ladder is looked at anew for every batch: it may lose rungs."""

    @property
    def ladder(self) -> tuple[int, ...]: ...

    def run(self, windows: NDArray[np.uint8], wanted: Sequence[Wanted]) -> WindowMaps: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A picture's maps, and how long it waited and how long its batches ran, in seconds."""

    maps: WindowMaps
    queue_s: float
    network_s: float


@dataclass(eq=False, slots=True)
class _Job:
    runner: Runner
    windows: NDArray[np.uint8]
    deadline: float
    wanted: Sequence[Wanted]  # of each window
    future: Future[Answer]
    queued: float
    started: float = 0.0
    network_s: float = 0.0
    taken: int = 0
    pieces: list[WindowMaps] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.windows) - self.taken


@dataclass(frozen=True, slots=True)
class _Slice:
    job: _Job
    start: int
    stop: int

    @property
    def windows(self) -> NDArray[np.uint8]:
        return self.job.windows[self.start : self.stop]

    @property
    def wanted(self) -> Sequence[Wanted]:
        return self.job.wanted[self.start : self.stop]


Observer = Callable[[Runner, int, int, float], None]  # runner, pictures, windows, seconds of one batch


class Batcher:
    """One queue before one device. `observe` is told of every batch that ran.

    `queue_windows`: the bound; None: MOST_WINDOWS, of them no more than the device judges in half a second once
    eight pictures are in, so that under overload those who are let in do not wait much longer than under a full load.
    """

    def __init__(self, queue_windows: int | None, observe: Observer | None = None) -> None:
        self._asked_bound = queue_windows
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._ready = threading.Condition()
        self._reserved = 0
        self._shares: Counter[Runner | None] = Counter()  # reserved windows by model
        self._turns: dict[int, int] = {}  # id of each waiting model's runner: number of the batch it was last in
        self._batches = 0
        self._pictures = 0
        self._seconds_per_window: float | None = None  # recent batches'
        self._closing = False
        self._thread = self._start_thread()

    @property
    def alive(self) -> bool:
        """Whether the inference thread runs."""
        return self._thread.is_alive()

    @property
    def reserved_windows(self) -> int:
        """Windows admitted and not yet answered."""
        return self._reserved

    @property
    def pictures(self) -> int:
        """Pictures admitted and not yet answered."""
        return self._pictures

    @contextlib.contextmanager
    def reserve(self, windows: int, runner: Runner | None = None) -> Iterator[None]:
        """Room for a picture of `windows` windows that `runner` will judge, until the block ends.

        Raises Overloaded with the seconds until there should be room, TooLarge when it can never fit, NotReady when closing.
        """
        with self._ready:
            if self._closing:
                raise NotReady("the service is shutting down", retry_after=5)
            most = self._asked_bound or MOST_WINDOWS
            if windows > most:
                raise TooLarge(
                    f"the picture needs {windows} windows, the queue holds {most} (FLAWSCRIBE_QUEUE_WINDOWS)"
                )
            bound = self._bound()
            if self._reserved + windows > bound and not self._is_due(windows, runner, bound):
                seconds = self._seconds_per_window or _UNKNOWN_S
                wait = max(0.1, (self._reserved + windows - bound) * seconds)
                raise Overloaded(f"{self._reserved} windows are waiting, the limit is {bound}", retry_after=wait)
            self._reserved += windows
            self._shares[runner] += windows
            self._pictures += 1
        try:
            yield
        finally:
            with self._ready:
                self._reserved -= windows
                self._pictures -= 1
                self._shares[runner] -= windows
                if not self._shares[runner]:
                    del self._shares[runner]

    def _bound(self) -> int:
        """Windows that may be in now."""
        if self._asked_bound is not None:
            return self._asked_bound
        if self._pictures < _FEW or not self._seconds_per_window:
            return MOST_WINDOWS
        return min(MOST_WINDOWS, int(_WAIT_S / self._seconds_per_window))

    def _is_due(self, windows: int, runner: Runner | None, bound: int) -> bool:
        """Whether a model may go beyond the bound, up to twice of it: others fill it, and it has less than an
        even share, or nothing yet."""
        others = len(self._shares.keys() - {runner})
        own = self._shares.get(runner, 0)
        room = self._reserved + windows <= 2 * bound
        return room and others > 0 and (not own or own + windows <= bound // (others + 1))

    async def submit(
        self,
        runner: Runner,
        windows: NDArray[np.uint8],
        deadline: float,
        *,
        wanted: Wanted | Sequence[Wanted] = "maps",
    ) -> Answer:
        """What is `wanted` of one picture's windows uint8 [n,256,256,3], n >= 1, of all or of each. `deadline`:
        time.monotonic() after which it is not run.

        Raises DeadlineExceeded, NetworkFailure, NotReady when closing, ValueError without a window or with as many not wanted.
        Cancelling the caller takes the picture out of the queue.
        """
        if not len(windows):
            raise ValueError("a picture has at least one window")
        wanted = (wanted,) * len(windows) if isinstance(wanted, str) else wanted
        if len(wanted) != len(windows):
            raise ValueError(f"{len(wanted)} answers are wanted of {len(windows)} windows")
        job = _Job(runner, windows, deadline, wanted, Future(), time.monotonic())
        with self._ready:
            if self._closing:
                raise NotReady("the service is shutting down", retry_after=5)
            self._jobs.append(job)
            self._ready.notify()
        return await asyncio.wrap_future(job.future)

    def close(self) -> None:
        """Answer what waits with NotReady and end the thread after its running batch."""
        with self._ready:
            self._closing = True
            waiting, self._jobs = list(self._jobs), deque()
            self._ready.notify()
        for job in waiting:
            _fail(job, NotReady("the service is shutting down", retry_after=5))
        self._thread.join()

    def _start_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._live, name="flawscribe-inference", daemon=True)
        thread.start()
        return thread

    def _live(self) -> None:
        """The thread's life. Whatever ends it early, those who wait are told and another takes over."""
        batch: list[_Slice] = []
        try:
            while self._wait():
                batch = self._take()
                if batch:
                    self._run(batch)
                batch = []
        except BaseException:
            log.exception("the inference thread died")
            with self._ready:
                orphans = {id(job): job for job in [*(part.job for part in batch), *self._jobs]}
                self._jobs.clear()
            for job in orphans.values():
                _fail(job, NetworkFailure("the inference thread died", retry_after=1))
            if not self._closing:
                self._thread = self._start_thread()

    def _wait(self) -> bool:
        with self._ready:
            self._ready.wait_for(lambda: self._jobs or self._closing)
            return not self._closing

    def _take(self) -> list[_Slice]:
        """The next batch: of the model whose turn was longest ago, in order of arrival, at most its largest rung; the
        departed and expired fall out."""
        batch: list[_Slice] = []
        with self._ready:
            now = time.monotonic()
            waiting = [job for job in self._jobs if not job.future.cancelled()]
            expired = [job for job in waiting if now > job.deadline]
            rest = deque[_Job]()
            runner = self._next_runner(job for job in waiting if now <= job.deadline)
            room = runner.ladder[-1] if runner is not None else 0
            for job in waiting:
                if now > job.deadline:
                    continue
                if room and job.runner is runner:
                    count = min(room, job.left)
                    batch.append(_Slice(job, job.taken, job.taken + count))
                    job.started = job.started or now
                    job.taken += count
                    room -= count
                if job.left:
                    rest.append(job)
            self._jobs = rest
        for job in expired:
            _fail(job, _expired())
        return batch

    def _next_runner(self, jobs: Iterator[_Job]) -> Runner | None:
        """The model whose turn it is: the one that was served longest ago, or never; of several the first to have come."""
        waiting = dict.fromkeys(job.runner for job in jobs)
        if not waiting:
            return None
        chosen = min(waiting, key=lambda runner: self._turns.get(id(runner), -1))
        self._batches += 1
        # one that waits no more gives up its place, so that nothing is kept of models that are gone
        self._turns = {id(runner): self._turns[id(runner)] for runner in waiting if id(runner) in self._turns}
        self._turns[id(chosen)] = self._batches
        return chosen

    def _run(self, batch: list[_Slice]) -> None:
        """Run a batch; when it fails, run it picture by picture, so that only the guilty one fails."""
        runner = batch[0].job.runner
        started = time.monotonic()
        windows = sum(part.stop - part.start for part in batch)
        try:
            together = np.concatenate([part.windows for part in batch]) if len(batch) > 1 else batch[0].windows
            maps = runner.run(together, [one for part in batch for one in part.wanted])
            if len(maps.structural) != windows:
                raise ValueError(f"the network answered {len(maps.structural)} of {windows} windows")
        except Exception as error:
            if len(batch) == 1:
                log.exception("the network failed on a picture")
                self._forget(batch[0].job)
                _fail(batch[0].job, _as_failure(error))
                return
            log.warning("a batch of %d pictures failed (%s); running them one by one", len(batch), error)
            for part in batch:
                if self._is_wanted(part.job):
                    self._run([part])
            return
        seconds = time.monotonic() - started
        before = self._seconds_per_window
        each = seconds / windows
        self._seconds_per_window = each if before is None else before + 0.2 * (each - before)
        if self._observe is not None:
            self._observe(runner, len(batch), windows, seconds)
        offset = 0
        for part in batch:
            count = part.stop - part.start
            self._deliver(part.job, _cut(maps, offset, offset + count), seconds)
            offset += count

    def _is_wanted(self, job: _Job) -> bool:
        """Whether somebody still waits for the picture; an expired one is told and leaves the queue."""
        if time.monotonic() > job.deadline:
            self._forget(job)
            _fail(job, _expired())
        return not job.future.done()

    def _forget(self, job: _Job) -> None:
        with self._ready:
            if job in self._jobs:
                self._jobs.remove(job)

    def _deliver(self, job: _Job, piece: WindowMaps, seconds: float) -> None:
        job.pieces.append(piece)
        job.network_s += seconds
        if sum(len(done.structural) for done in job.pieces) == len(job.windows):
            answer = Answer(_join(job.pieces), job.started - job.queued, job.network_s)
            with contextlib.suppress(InvalidStateError):  # departed meanwhile
                job.future.set_result(answer)


def _fail(job: _Job, error: FlawscribeError) -> None:
    with contextlib.suppress(InvalidStateError):
        job.future.set_exception(error)


def _expired() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the picture could be judged")


def _as_failure(error: Exception) -> FlawscribeError:
    return (
        error if isinstance(error, FlawscribeError) else NetworkFailure(f"the network failed on this picture: {error}")
    )


def _cut(maps: WindowMaps, start: int, stop: int) -> WindowMaps:
    whole = slice(start, stop)
    return WindowMaps(
        maps.structural[whole],
        None if maps.logical is None else maps.logical[whole],
        None if maps.features is None else maps.features[whole],
    )


def _join(pieces: list[WindowMaps]) -> WindowMaps:
    if len(pieces) == 1:
        return pieces[0]
    counts = [len(piece.structural) for piece in pieces]
    return WindowMaps(
        np.concatenate([piece.structural for piece in pieces]),
        _filled([piece.logical for piece in pieces], counts),
        _filled([piece.features for piece in pieces], counts),
    )


def _filled(parts: list[NDArray[Number] | None], counts: list[int]) -> NDArray[Number] | None:
    """The parts as one, with 0 for those of their `counts` windows that have none; None where no part is there."""
    there = next((part for part in parts if part is not None), None)
    if there is None:
        return None
    one = there[:1]
    return np.concatenate(
        [
            np.zeros_like(one).repeat(count, 0) if part is None else part
            for part, count in zip(parts, counts, strict=True)
        ]
    )
