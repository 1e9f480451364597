"""The service's side of shadow runs. An answer never waits for it: a picture is offered after its inspection was recorded, and
dropped while the candidate is busy with others."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.errors import Conflict, FlawscribeError, NoSuchModel
from service.inspector import Picture
from service.metrics import Metrics
from service.records.shadows import Comparison, Judged, ShadowRun
from service.records.store import Records
from service.shadow import worker
from service.types import Decision, Inspection

log = logging.getLogger("flawscribe.shadow")
_WAITING = 2  # pictures that wait while the candidate is busy
_OUTCOMES = ("compared", "disagreed", "dropped", "failed")
_LARGEST = 64 << 20  # bytes of a picture that is taken along


@dataclass(frozen=True, slots=True)
class ShadowOptions:
    """How candidates are run: where they lie, how many cores they may use at which niceness, and the largest picture."""

    models_dir: Path
    cores: int
    niceness: int
    max_pixels: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A run and what became of the pictures it was offered since the service started. `state`: loading, running, stopped."""

    run: ShadowRun
    state: str
    precision: str | None = None
    compared: int = 0
    dropped: int = 0
    failed: int = 0


class Shadow:
    """One candidate at work: a thread that feeds its process. `offer` may be called from any thread and never blocks."""

    def __init__(self, run: ShadowRun, options: ShadowOptions, records: Records, metrics: Metrics) -> None:
        self._records, self._metrics = records, metrics
        self._waiting: queue.Queue[tuple[Picture, Inspection] | None] = queue.Queue(_WAITING)
        self._standing = Standing(run, "loading")
        self._changing = threading.Lock()
        for outcome in _OUTCOMES:  # there from the start, so that the first one shows as a rise
            metrics.shadow_images.labels(run.model_name, outcome)
        folder = options.models_dir / run.model_name / str(run.candidate_version)
        self._child = subprocess.Popen(
            [
                *(sys.executable, "-m", worker.__name__, str(folder)),
                *map(str, (options.cores, options.niceness, options.max_pixels)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the service's; the end of its input ends it
        )
        self._thread = threading.Thread(target=self._live, name="flawscribe-shadow", daemon=True)
        self._thread.start()

    @property
    def standing(self) -> Standing:
        """How it stands now."""
        return self._standing

    def offer(self, picture: Picture, inspection: Inspection) -> None:
        """Take a picture along that the active version has judged, if there is room."""
        standing, model = self._standing, inspection.model
        if standing.state != "running" or (model.name, model.version) != (
            standing.run.model_name,
            standing.run.active_version,
        ):
            return
        try:
            if len(picture.data) > _LARGEST:
                raise queue.Full
            self._waiting.put_nowait((picture, inspection))
        except queue.Full:
            self._count("dropped")

    def end(self) -> None:
        """End the process and the thread; what waits is dropped. Blocks until they are gone."""
        self._change(state="stopped")
        self._child.kill()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join()

    def _live(self) -> None:
        reason = ""
        try:
            ready = self._answer()
            if "refused" in ready:
                reason = ready["refused"]
                return
            if self._standing.state == "loading":
                self._change(state="running", precision=ready["precision"])
            while self._standing.state == "running" and (item := self._waiting.get()) is not None:
                self._compare(*item)
        except (OSError, ValueError) as error:
            code = self._child.wait()
            reason = f"the candidate's process ended ({code}): {error}"
        finally:
            self._child.kill()
            for stream in (self._child.stdin, self._child.stdout):
                with contextlib.suppress(OSError):
                    assert stream is not None
                    stream.close()
            self._child.wait()
            if self._standing.state != "stopped":  # of its own accord
                self._change(state="stopped")
                log.error("shadow of %s: %s", self._standing.run.model_name, reason)
                with contextlib.suppress(FlawscribeError):
                    self._records.shadows.stop(self._standing.run.id, reason)

    def _compare(self, picture: Picture, inspection: Inspection) -> None:
        assert self._child.stdin is not None
        worker.send(self._child.stdin, picture)
        said = self._answer()
        if "error" in said:
            self._count("failed")
            return
        verdict = inspection.verdict
        score = verdict.score if math.isfinite(verdict.score) else None
        comparison = Comparison(
            inspection.id,
            datetime.now(UTC),
            Judged(verdict.decision, score, verdict.thresholds.reject),
            Judged(Decision(said["verdict"]), said["score"], said["reject"]),
        )
        try:
            self._records.shadows.add(self._standing.run.id, comparison).result()
        except FlawscribeError as error:
            log.warning("a comparison was not recorded: %s", error.detail)
            self._count("failed")
            return
        self._count("compared" if comparison.agrees else "disagreed")

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise OSError("it said nothing more")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _count(self, outcome: str) -> None:
        self._metrics.shadow_images.labels(self._standing.run.model_name, outcome).inc()
        name = "compared" if outcome == "disagreed" else outcome
        with self._changing:
            self._standing = replace(self._standing, **{name: getattr(self._standing, name) + 1})

    def _change(self, **changes: Any) -> None:
        with self._changing:
            self._standing = replace(self._standing, **changes)


class Shadows:
    """The shadow runs of a service: at most one at a time, since each holds a model in memory. Any thread."""

    def __init__(self, options: ShadowOptions, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics
        self._shadow: Shadow | None = None
        self._changing = threading.Lock()

    def restore(self, records: Records, active_version: Callable[[str], int | None]) -> None:
        """Go on with the run that was not stopped before the service ended, unless what it compared with is not in service any
        more: `active_version` of a model's name. Raises RecordsBusy."""
        with self._changing:
            for run in records.shadows.running()[-1:]:
                active = None
                with contextlib.suppress(NoSuchModel):
                    active = active_version(run.model_name)
                if active != run.active_version:
                    records.shadows.stop(run.id, f"version {run.active_version} is not in service any more").result()
                elif self._shadow is None:
                    self._shadow = Shadow(run, self._options, records, self._metrics)

    def start(self, records: Records, model_name: str, active: int, candidate: int, who: str) -> Standing:
        """Begin a run. Raises Conflict while another one runs, RecordsBusy."""
        with self._changing:
            running = self._shadow
            if running is not None and running.standing.state != "stopped":
                run = running.standing.run
                raise Conflict(
                    f"version {run.candidate_version} of {run.model_name} runs in shadow; one at a time: stop it first"
                )
            run = records.shadows.start(model_name, active, candidate, who).result()
            self._shadow = Shadow(run, self._options, records, self._metrics)
            return self._shadow.standing

    def stop(self, records: Records, model_name: str, reason: str) -> None:
        """End a model's run. Raises Conflict when none runs, RecordsBusy."""
        with self._changing:
            shadow = self._of(model_name)
            if shadow is None:
                raise Conflict(f"no version of {model_name} runs in shadow")
            records.shadows.stop(
                shadow.standing.run.id, reason
            ).result()  # first: a run that is not written off comes back
            shadow.end()

    def model_changed(self, records: Records | None, model_name: str, version: int) -> None:
        """Another version was put in service: what the candidate was compared with is gone."""
        shadow = self._of(model_name)
        if records is not None and shadow is not None and shadow.standing.run.active_version != version:
            try:
                self.stop(records, model_name, f"version {version} was put in service")
            except Conflict:
                pass
            except (
                FlawscribeError
            ) as error:  # the version is in service all the same; the next start writes the run off
                log.error(
                    "a run in shadow of %s has ended, and its record says that it runs: %s", model_name, error.detail
                )
                shadow.end()

    def offer(self, picture: Picture, inspection: Inspection) -> None:
        """A picture that was judged by a model's own thresholds, and recorded. Never blocks, never raises."""
        if self._shadow is not None:
            self._shadow.offer(picture, inspection)

    def standing(self, model_name: str) -> Standing | None:
        """How a model's run stands that was started or gone on with since the service started."""
        shadow = self._shadow
        return shadow.standing if shadow is not None and shadow.standing.run.model_name == model_name else None

    def close(self) -> None:
        """End the process; the run goes on at the next start."""
        with self._changing:
            if self._shadow is not None:
                self._shadow.end()

    def _of(self, model_name: str) -> Shadow | None:
        shadow = self._shadow
        if shadow is None or shadow.standing.run.model_name != model_name or shadow.standing.state == "stopped":
            return None
        return shadow
