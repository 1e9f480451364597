"""The one child process: started in a session of its own, recognised by the lock that it holds as long as it lives.

The lock's open file is inherited by the child and by whatever it starts, so `locked` means `alive` whoever asks, also after a
restart of the service, and without the doubt whether a process id was given anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import Conflict

_PATIENCE_S = 5.0  # between SIGTERM and SIGKILL
_LOOK_S = 0.05
_PROBES, _PROBE_S = 20, 0.01  # how often, and after what pause, a start looks again while others only look at the lock


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock: the training's id, and the process id, which is its process group too."""

    training: str
    pid: int


def can_watch() -> bool:
    """Whether this system has the locks and process groups that are needed."""
    return sys.platform != "win32"


def start(lock: Path, training: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `command` under the lock; its output is added to `log`. Raises Conflict when another holds the lock."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(handle, lock)
        os.truncate(handle, 0)  # the one before is over: nobody shall take it for the one that starts
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(handle,),
            )
        os.pwrite(handle, json.dumps({"training": training, "pid": child.pid}).encode(), 0)
    finally:
        os.close(handle)  # the child's copy holds the lock from here on
    return child


def holder(lock: Path) -> Holder | None:
    """Who holds the lock; None when nobody does."""
    try:
        handle = os.open(lock, os.O_RDWR)
    except OSError:
        return None
    try:
        if _try_lock(handle, shared=True):  # so that two who look do not see each other
            return None
        held = json.loads(os.pread(handle, 4096, 0))
        return Holder(held["training"], held["pid"])
    except (ValueError, KeyError):  # it is being written
        return None
    finally:
        os.close(handle)


def end(lock: Path, held: Holder) -> None:
    """End the holder with all that it started: asked first, then killed. Returns when the lock is free."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(held.pid, number)
        give_up = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up:
            if holder(lock) != held:
                return
            time.sleep(_LOOK_S)


def _take(handle: int, lock: Path) -> None:
    """Take the lock, over those who only look at it for a moment. Raises Conflict when another holds it."""
    for _ in range(_PROBES):
        if _try_lock(handle):
            return
        if other := holder(lock):
            raise Conflict(f"training {other.training} is running; one at a time")
        time.sleep(_PROBE_S)
    raise Conflict("training (unknown) is running; one at a time")


def _try_lock(handle: int, *, shared: bool = False) -> bool:
    """Take the lock unless another has it; `shared`: beside others who share it. It goes when the handle is closed."""
    import fcntl  # noqa: PLC0415 - not on Windows, where the service does without trainings

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
