"""Trainings: one at a time, each a folder on disk that tells all of it, and a child process while it runs.

    <trainings folder>/lock               held by the running child
    <trainings folder>/<id>/order.json    what was asked, by whom, when       pictures/   what was uploaded
                       progress.json      written by the child                samples/    heatmaps of the last evaluation
                       log.txt            the child's output                  cancelled   there once it was cancelled
                       checkpoints/       what a resumed training goes on from

Nothing of a training's state is kept in memory, so a service that was restarted finds it again.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from service.background import NICEST
from service.bundle.manifest import AUTO
from service.errors import Conflict, InvalidParameter, NoSuchTraining, NotInstalled
from service.trainings import process
from service.trainings.archive import ArchiveLimits, Unpacked, unpack
from service.trainings.order import Order
from service.trainings.progress import Progress, read_progress

log = logging.getLogger("flawscribe.trainings")
State = Literal["running", "done", "failed", "cancelled", "interrupted"]
_ID = re.compile(r"\d{8}-\d{6}-[a-z0-9._-]{1,64}")
_FORGOTTEN_S = 24 * 3600.0  # another service on the same folder may still be unpacking
_SAMPLE = re.compile(r"\d{1,9}-\d{1,3}\.jpg")
_LOG_TAIL = 16 * 1024  # bytes
_LOG_LINES = 40
_DIED = (
    "the training's process ended without a word: it was killed, the machine went down, or memory ran out; resume goes on "
    "from the last evaluation"
)


class Record(BaseModel):
    """order.json. `pictures`: the folder that is trained on; `uploaded`: it is the training's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    created_at: datetime
    who: str
    order: Order
    pictures: str
    uploaded: bool
    left_out: int = 0  # files of the upload that are no pictures


@dataclass(frozen=True, slots=True)
class Training:
    """A training as it stands. `error`: why it ended without a model, in words."""

    record: Record
    state: State
    progress: Progress
    error: str | None = None

    @property
    def version(self) -> int | None:
        """The version of the model that came of it."""
        return int(Path(self.progress.bundle).name) if self.progress.bundle else None


@dataclass(frozen=True, slots=True)
class Place:
    """Where trainings live and what they may use. `data_dir`: below it server folders may be named; `niceness`: 0..19."""

    folder: Path
    models_dir: Path
    data_dir: Path | None = None
    cores: int = 1
    niceness: int = NICEST
    archive: ArchiveLimits = field(default_factory=ArchiveLimits)


class Trainings:
    """Starts, finds, cancels. Any thread; methods may block on the disk. `keep_choice`: see bundle.store.Store."""

    def __init__(self, place: Place, keep_choice: Callable[[str], None]) -> None:
        self.place = place
        self._keep_choice = keep_choice
        self._lock = place.folder / "lock"
        self._starting = threading.Lock()

    def why_not(self) -> str | None:
        """Why no training can be started here; None when one can."""
        if not process.can_watch():
            return "trainings over HTTP need Linux or macOS; use the command `flawscribe train`"
        if find_spec("torch") is None:
            return (
                "training needs PyTorch, which is not installed here: `make dev` in the checkout, "
                "or pip install 'flawscribe[train]'"
            )
        return None

    def teachers(self) -> list[str]:
        """Names of the teachers that can be learned from."""
        return sorted(path.stem for path in (Path("models") / "teachers").glob("*.safetensors"))

    def running(self) -> str | None:
        """The id of the training that runs."""
        held = process.holder(self._lock)
        return held.training if held is not None else None

    def require(self) -> None:
        """Raises NotInstalled where nothing can be trained, Conflict while another training runs: before an upload is read."""
        if reason := self.why_not():
            raise NotInstalled(reason)
        if other := self.running():
            raise Conflict(f"training {other} is running; one at a time: wait for it or cancel it")

    def upload_path(self) -> Path:
        """A place on the trainings' disk for an upload on its way in."""
        self.place.folder.mkdir(parents=True, exist_ok=True)
        return self.place.folder / f".upload-{datetime.now(UTC):%Y%m%d%H%M%S%f}.zip"

    def start(self, order: Order, who: str, archive: Path | None = None) -> Training:
        """Start a training on the pictures of a zip, or of the order's folder.

        Raises NotInstalled, Conflict, InvalidParameter for a folder that may not be named, BadRequest and TooLarge as
        `unpack`, BundleRefused when the models folder cannot be written.
        """
        if (archive is None) == (order.folder is None):
            raise InvalidParameter("give either a zip of pictures or `folder`, one of them")
        teachers = self.teachers()
        if not teachers or order.teacher not in (AUTO, *teachers):
            raise InvalidParameter(f"no teacher {order.teacher!r}; there are: {', '.join(teachers) or 'none'}")
        named = None if order.folder is None else self._named(order.folder)
        with self._begun():
            self.require()
            self._sweep()
            now = datetime.now(UTC)
            training_id = f"{now:%Y%m%d-%H%M%S}-{order.name}"
            run = self.place.folder / training_id
            try:
                run.mkdir(parents=True)
            except FileExistsError as error:
                raise Conflict(f"training {training_id} has just been started") from error
            try:
                unpacked = Unpacked(0, 0)
                if archive is not None:
                    unpacked = unpack(archive, run / "pictures", self.place.archive)
                record = Record(
                    id=training_id,
                    created_at=now,
                    who=who,
                    order=order,
                    pictures=str(named or (run / "pictures").resolve()),
                    uploaded=named is None,
                    left_out=unpacked.left_out,
                )
                (run / "order.json").write_text(record.model_dump_json(indent=1))
                self._launch(record)
            except BaseException:
                shutil.rmtree(run, ignore_errors=True)
                raise
        return self.get(training_id)

    @contextlib.contextmanager
    def _begun(self) -> Iterator[None]:
        """While a training is being started. Raises Conflict while another one is: unpacking its pictures may take minutes."""
        if not self._starting.acquire(blocking=False):
            raise Conflict("another training is being started; one at a time")
        try:
            yield
        finally:
            self._starting.release()

    def _sweep(self) -> None:
        """Remove uploads, and pictures unpacked for a training, that a service which was killed left long ago."""
        left = [*self.place.folder.glob(".upload-*.zip")]
        left += [
            path
            for path in self.place.folder.glob("*")
            if _ID.fullmatch(path.name) and not (path / "order.json").exists()
        ]
        for path in left:
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _FORGOTTEN_S:
                    log.warning("removing what an interrupted start left: %s", path)
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def resume(self, training_id: str) -> Training:
        """Go on from the last evaluation. Raises NoSuchTraining, Conflict when it is done or one runs, NotInstalled."""
        training = self.get(training_id)
        if training.state == "done":
            raise Conflict(f"training {training_id} is done: version {training.version} is there")
        with self._begun():
            self.require()
            (self._run(training_id) / "cancelled").unlink(missing_ok=True)
            self._launch(training.record)
        return self.get(training_id)

    def all(self) -> list[Training]:
        """Every training, newest first."""
        found = []
        for training_id in sorted(self._ids(), reverse=True):
            with contextlib.suppress(NoSuchTraining):
                found.append(self.get(training_id))
        return found

    def newest_failed(self) -> bool:
        """Whether the newest training failed or was interrupted, until it is resumed or removed, or another is started."""
        with contextlib.suppress(NoSuchTraining):
            return bool(ids := self._ids()) and self.get(max(ids)).state in ("failed", "interrupted")
        return False

    def get(self, training_id: str) -> Training:
        """A training as it stands now. Raises NoSuchTraining."""
        run = self._run(training_id)
        try:
            record = Record.model_validate_json((run / "order.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise NoSuchTraining(f"training {training_id!r} cannot be read") from error
        alive = self.running() == training_id  # before its progress: it may end in between
        progress = read_progress(run / "progress.json")
        if progress.phase == "done":
            return Training(record, "done", progress)
        if alive:
            return Training(record, "running", progress)
        if (run / "cancelled").exists():
            return Training(record, "cancelled", progress, "cancelled")
        if progress.phase == "failed":
            return Training(record, "failed", progress, progress.error)
        tail = self.log_tail(training_id)
        last = f" Its last line: {tail[-1]}" if tail else ""
        return Training(record, "interrupted", progress, _DIED + "." + last)

    def cancel(self, training_id: str) -> Training:
        """End a training that runs, with every process of it. Raises NoSuchTraining, Conflict when it does not run."""
        run = self._run(training_id)
        held = process.holder(self._lock)
        if held is None or held.training != training_id:
            raise Conflict(f"training {training_id} does not run")
        (run / "cancelled").touch()
        process.end(self._lock, held)
        training = self.get(training_id)
        self._tidy(training.record.order.name, held.pid)
        log.info("training %s: %s", training_id, training.state)
        return training

    def remove(self, training_id: str) -> None:
        """Remove a training with its pictures, log and checkpoints; its model stays. Raises NoSuchTraining, Conflict."""
        run = self._run(training_id)
        if self.running() == training_id:
            raise Conflict(f"training {training_id} is running; cancel it first")
        shutil.rmtree(run)

    def sample(self, training_id: str, file: str) -> bytes:
        """A heatmap of the last evaluation, as JPEG. Raises NoSuchTraining."""
        run = self._run(training_id)
        try:
            if not _SAMPLE.fullmatch(file):
                raise FileNotFoundError
            return (run / "samples" / file).read_bytes()
        except OSError as error:
            raise NoSuchTraining(f"training {training_id} has no sample {file!r}") from error

    def log_tail(self, training_id: str) -> list[str]:
        """The last lines that the child wrote. Raises NoSuchTraining."""
        try:
            with (self._run(training_id) / "log.txt").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _LOG_TAIL))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        return [line for line in re.split(r"[\r\n]+", text) if line.strip()][-_LOG_LINES:]

    def close(self) -> None:
        """Say what goes on without the service; it is found again at the next start."""
        if running := self.running():
            log.info("training %s goes on; the next start of the service finds it again", running)

    def _launch(self, record: Record) -> None:
        run = self.place.folder / record.id
        self._keep_choice(record.order.name)
        command = [
            *(sys.executable, "-m", "service", "train", f"--data={record.pictures}"),
            *record.order.options(),
            f"--models-dir={self.place.models_dir.resolve()}",
            f"--runs-dir={(run / 'checkpoints').resolve()}",
            f"--progress={(run / 'progress.json').resolve()}",
            f"--background={self.place.cores}",
            f"--nice={self.place.niceness}",
        ]
        child = process.start(self._lock, record.id, command, run / "log.txt")
        log.info("training %s runs as process %s", record.id, child.pid)
        threading.Thread(target=child.wait, name="flawscribe-training", daemon=True).start()  # so that no zombie stays

    def _ids(self) -> list[str]:
        """Of all trainings; they sort by the time at which they were started."""
        if not self.place.folder.is_dir():
            return []
        return [path.name for path in self.place.folder.iterdir() if _ID.fullmatch(path.name)]

    def _run(self, training_id: str) -> Path:
        run = self.place.folder / training_id
        if not _ID.fullmatch(training_id) or not run.is_dir():
            raise NoSuchTraining(f"no training {training_id!r}; GET /trainings lists them")
        return run

    def _named(self, folder: str) -> Path:
        """A server folder as named by a client. Raises InvalidParameter for one outside of what the settings allow."""
        root = self.place.data_dir
        if root is None:
            raise InvalidParameter(
                "no folder of this server may be named: set FLAWSCRIBE_TRAINING_DATA_DIR, or upload a zip"
            )
        if "\0" in folder:
            raise InvalidParameter("`folder` holds a null character")
        found = (root / folder).resolve()
        if not found.is_relative_to(root.resolve()) or not found.is_dir():
            raise InvalidParameter(f"{folder!r} is not a folder below {root} (FLAWSCRIBE_TRAINING_DATA_DIR)")
        return found

    def _tidy(self, name: str, pid: int) -> None:
        """Remove what a killed child left in the models folder."""
        model = self.place.models_dir / name
        for leftover in model.glob(f".*.{pid}"):
            shutil.rmtree(leftover, ignore_errors=True)
        if model.is_dir() and [path.name for path in model.iterdir()] == ["active"]:
            shutil.rmtree(model, ignore_errors=True)
