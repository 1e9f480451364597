"""progress.json: how far a training is. Written by `flawscribe train --progress`, read by whoever watches it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

_MOST_POINTS = 300  # of the curve; above it neighbours are merged
_EVERY_S = 1.0  # steps are written down at most that often
_MOST_SAID = 30

Phase = Literal["preparing", "training", "finishing", "done", "failed"]


class Sample(BaseModel):
    """A picture with its heatmap at an evaluation, as a JPEG beside progress.json. `flawed`: a flaw is painted on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    step: int
    flawed: bool
    score: float


class Progress(BaseModel):
    """`curve`: (step, loss), thinned; `scores`: (step, separation of painted flaws 0..1); `bundle`: the folder written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Phase = "preparing"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    seconds_left: float | None = None  # of the steps; exporting and calibrating come after them
    curve: tuple[tuple[int, float], ...] = ()
    scores: tuple[tuple[int, float], ...] = ()
    samples: tuple[Sample, ...] = ()
    said: tuple[str, ...] = ()
    error: str | None = None
    bundle: str | None = None
    updated_at: datetime | None = None


def read_progress(file: Path) -> Progress:
    """What the file says; the beginning where there is none, or where it cannot be read."""
    try:
        return Progress.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return Progress()


class TimeLeft:
    """Seconds until the last step, from the steps that this process has made."""

    def __init__(self) -> None:
        self._started: tuple[float, int] | None = None

    def after(self, step: int, steps: int) -> float | None:
        """The estimate once `step` of `steps` is done; None after the first."""
        now = time.monotonic()
        if self._started is None:
            self._started = (now, step)
            return None if step < steps else 0.0
        began, first = self._started
        return (now - began) / max(1, step - first) * (steps - step)


class ProgressFile:
    """The writing side: the file is replaced whole, so that a reader never sees half of it.

    A training that goes on from its checkpoint goes on with the file that is there.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        before = read_progress(file)
        self._now = before.model_copy(update={"phase": "preparing", "error": None, "bundle": None})
        self._left = TimeLeft()
        self._curve = list(before.curve)
        self._stride = max(1, *(b[0] - a[0] for a, b in zip(self._curve, self._curve[1:], strict=False)), 1)
        self._bucket: list[float] = []
        self._written = 0.0
        self._write()

    def say(self, text: str) -> None:
        """A line for people. After the last step it is about finishing."""
        finishing = self._now.phase == "training" and self._now.step >= self._now.steps
        phase: Phase = "finishing" if finishing else self._now.phase
        self._write(said=(*self._now.said, text)[-_MOST_SAID:], phase=phase)

    def step(self, step: int, steps: int, loss: float) -> None:
        """A step was made, or a training has gone on behind its last one, which it then tells again."""
        if step == steps and self._curve and self._curve[-1][0] == step:
            self._write(phase="training")
            return
        if self._curve and step <= self._curve[-1][0]:  # went back to the checkpoint
            self._curve = [point for point in self._curve if point[0] < step]
            self._now = self._now.model_copy(
                update={"scores": tuple(each for each in self._now.scores if each[0] < step)}
            )
        self._bucket.append(loss)
        if len(self._bucket) >= self._stride or step == steps:
            self._curve.append((step, sum(self._bucket) / len(self._bucket)))
            self._bucket = []
        if len(self._curve) > _MOST_POINTS:
            pairs = zip(self._curve[::2], self._curve[1::2], strict=False)
            self._curve = [(later[0], (former[1] + later[1]) / 2) for former, later in pairs]
            self._stride *= 2
        left = self._left.after(step, steps)
        left = None if left is None else round(left, 1)
        self._now = self._now.model_copy(
            update={"phase": "training", "step": step, "steps": steps, "loss": loss, "seconds_left": left}
        )
        if step == steps or time.monotonic() - self._written >= _EVERY_S:
            self._write()

    def evaluated(self, step: int, score: float, pictures: list[tuple[bytes, bool, float]]) -> None:
        """An evaluation: its score 0..1, and its pictures as (JPEG, is a flaw painted on it, anomaly score). The pictures of
        earlier evaluations go."""
        folder = self._file.parent / "samples"
        folder.mkdir(exist_ok=True)
        samples = []
        for index, (jpeg, flawed, anomaly_score) in enumerate(pictures):
            sample = Sample(file=f"{step}-{index}.jpg", step=step, flawed=flawed, score=round(anomaly_score, 4))
            (folder / sample.file).write_bytes(jpeg)
            samples.append(sample)
        self._write(scores=(*self._now.scores, (step, round(score, 5))), samples=tuple(samples))
        kept = {sample.file for sample in samples}
        for path in folder.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def done(self, bundle: Path) -> None:
        """The bundle is written."""
        self._write(phase="done", bundle=str(bundle), seconds_left=0.0)

    def failed(self, error: str) -> None:
        """It cannot go on."""
        self._write(phase="failed", error=error, seconds_left=None)

    def _write(self, **changes: object) -> None:
        self._now = self._now.model_copy(
            update={**changes, "curve": tuple(self._curve), "updated_at": datetime.now(UTC)}
        )
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(self._now.model_dump_json())
        temporary.replace(self._file)
        self._written = time.monotonic()
