"""The machine that this process runs on, in words: what was measured on one says nothing of another."""

from __future__ import annotations

import platform
from pathlib import Path

from service.engine.session import available_cores


def processor_name() -> str:
    """The processor's name as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine_name(threads: int = 0) -> str:
    """Processor and cores that a network may run on; `threads`: as many where that is set, 0: all that are allowed."""
    return f"{processor_name()}, {threads or available_cores()} cores"
