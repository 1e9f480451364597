"""How much memory is left for a training, as far as the system tells."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that may still be taken: what is left below the cgroup's limit, at most what the system has; None where
    neither is told."""
    told = [left for left in (_left_in_cgroup(), _left_in_system()) if left is not None]
    return min(told, default=None)


def _left_in_cgroup() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        amounts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        # files that were read stay there as long as nobody else needs the place: all pictures have just been read once
        cached = int(amounts["active_file"]) + int(amounts["inactive_file"])
        return None if limit == "max" else max(0, int(limit) - used + cached)
    except (OSError, ValueError, KeyError):
        return None


def _left_in_system() -> int | None:
    try:
        amounts = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        return int(amounts["MemAvailable"].removesuffix("kB")) * 1024
    except (OSError, ValueError, KeyError):
        return None
