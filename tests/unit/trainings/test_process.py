"""The lock is the child's life: seen by others, also after its starter is gone, and ended with all that it started."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.background import step_behind
from service.errors import Conflict
from service.trainings import process
from service.trainings.process import Holder, end, holder, start
from tests.contract.serving import wait_until


def test_one_holds_the_lock_until_it_ends(tmp_path: Path) -> None:
    lock, log = tmp_path / "lock", tmp_path / "log"
    assert holder(lock) is None
    child = start(lock, "first", [sys.executable, "-c", "import time; time.sleep(600)"], log)
    try:
        held = holder(lock)
        assert held is not None
        assert (held.training, held.pid) == ("first", child.pid)
        assert os.getpgid(child.pid) == child.pid
        with pytest.raises(Conflict, match="first is running"):
            start(lock, "second", [sys.executable, "-c", ""], log)
    finally:
        end(lock, held)
    assert child.wait(10) < 0
    assert holder(lock) is None


def test_grandchildren_and_those_who_ignore_the_asking_end_too(tmp_path: Path) -> None:
    lock, log = tmp_path / "lock", tmp_path / "log"
    program = """
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
        print(child.pid, flush=True)
        time.sleep(600)
    """
    child = start(lock, "stubborn", [sys.executable, "-c", textwrap.dedent(program)], log)
    wait_until(lambda: log.read_text().strip())
    grandchild = int(log.read_text())
    held = holder(lock)
    assert held is not None
    end(lock, held)
    child.wait(10)
    assert holder(lock) is None
    wait_until(lambda: not Path(f"/proc/{grandchild}").exists() or "Z" in Path(f"/proc/{grandchild}/stat").read_text())


def test_a_child_is_found_again_after_its_starter_is_gone(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    program = f"""
        from pathlib import Path
        import sys
        from service.trainings.process import start
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        child = start(Path({str(lock)!r}), "left", command, Path({str(tmp_path / "log")!r}))
        child.returncode = 0  # not ours to wait for any more
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    held = holder(lock)
    assert held is not None
    assert held.training == "left"
    end(lock, held)
    assert holder(lock) is None


ENDED = '{"training": "ended", "pid": 1}'  # what a training that is over leaves in the lock


def test_two_who_look_at_once_do_not_see_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    lock.write_text(ENDED)
    original, both = fcntl.flock, threading.Barrier(2)

    def together(handle: int, how: int) -> None:
        try:
            original(handle, how)
        finally:
            both.wait(30)

    monkeypatch.setattr(fcntl, "flock", together)
    with ThreadPoolExecutor(2) as pool:
        assert [found.result(30) for found in [pool.submit(holder, lock) for _ in range(2)]] == [None, None]


def test_a_look_at_the_lock_does_not_keep_a_training_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    lock.write_text(ENDED)
    looking = os.open(lock, os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_SH)
    pauses: list[float] = []

    def look_ends(seconds: float) -> None:
        pauses.append(seconds)
        os.close(looking)

    with monkeypatch.context() as patch:
        patch.setattr(process.time, "sleep", look_ends)
        child = start(lock, "first", [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
    held = holder(lock)
    assert held == Holder("first", child.pid)
    end(lock, held)
    child.wait(10)
    assert len(pauses) == 1


def test_a_lock_that_is_never_given_back_is_a_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    looking = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(process.time, "sleep", lambda seconds: None)
    with pytest.raises(Conflict, match="unknown"):
        start(lock, "first", [sys.executable, "-c", ""], tmp_path / "log")
    os.close(looking)


def test_while_a_training_starts_the_one_before_does_not_hold_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    lock.write_text(ENDED)
    original, seen = subprocess.Popen, []

    def launch(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        seen.append(holder(lock))
        return original(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", launch)
    start(lock, "first", [sys.executable, "-c", ""], tmp_path / "log").wait(30)
    assert seen == [None]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
def test_stepping_behind_holds_for_threads_that_are_already_there() -> None:
    program = f"""
        import os, threading, time
        from pathlib import Path
        from {step_behind.__module__} import step_behind
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        step_behind(1)
        for thread in Path("/proc/self/task").iterdir():
            number = int(thread.name)
            print(os.getpriority(os.PRIO_PROCESS, number), os.sched_getscheduler(number) == os.SCHED_IDLE,
                  len(os.sched_getaffinity(number)))
        print(Path("/proc/self/oom_score_adj").read_text())
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,  # else it would renice the group of whoever runs the tests
    )
    *threads, oom = ran.stdout.split("\n")[:-1][:-1]
    assert len(threads) >= 2
    assert set(threads) == {"19 True 1"}
    assert oom == "1000"
