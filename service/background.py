"""Stepping behind: a process that takes of the machine only what nobody else wants."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NICEST = 19
_FIRST_TO_GO = "1000"  # when memory runs out


def step_behind(cores: int, niceness: int = NICEST) -> None:
    """A lower priority for this process and all its threads, on at most `cores` cores, and the first place among those killed
    when memory runs out: rather than a service beside it. What the system does not allow or know is left out.

    `niceness`: 0 shares the cores evenly, 19 takes only what nobody else wants. To be called before the threads that do the
    work are started; they inherit it.
    """
    if not hasattr(os, "sched_setaffinity"):  # not Linux
        if hasattr(os, "nice"):
            os.nice(niceness)
        return
    own = Path("/proc/self")
    allowed = sorted(os.sched_getaffinity(0))[-cores:]
    for thread in (int(path.name) for path in (own / "task").iterdir()):  # on Linux these hold for each thread
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
        with contextlib.suppress(OSError):
            if niceness == NICEST:  # below every niceness: its disk accesses come last, too
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, allowed)
    with contextlib.suppress(
        OSError
    ):  # a session is a group of its own to the scheduler: niceness counts only within it
        (own / "autogroup").write_text(str(niceness))
    with contextlib.suppress(OSError):
        (own / "oom_score_adj").write_text(_FIRST_TO_GO)
