"""The lock is the child's life: seen by others, also after its starter is gone, and ended with all that it started."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from service.background import step_behind
from service.errors import Conflict
from service.trainings.process import end, holder, start
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
