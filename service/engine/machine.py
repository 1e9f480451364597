"""The machine that this process runs on, in words: what was measured on one says nothing of another."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

from service.engine.session import available_cores

_CPUINFO = Path("/proc/cpuinfo")
_EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "asimddp", "i8mm", "bf16", "sve")


def processor_name() -> str:
    """The processor's name as the system has it; on ARM, where Linux has none, by the numbers of its maker and kind."""
    told = _told()
    numbers = [told[key] for key in ("CPU implementer", "CPU part", "CPU revision") if key in told]
    return told.get("model name") or " ".join([platform.processor() or platform.machine(), *numbers])


def machine_name(threads: int = 0) -> str:
    """Processor and cores that a network may run on; `threads`: as many where that is set, 0: all that are allowed.

    With the processor's generation and the extensions that networks run by: under a hypervisor many have one name, and
    extensions may be withheld.
    """
    told = _told()
    generation = "-".join(told[key] for key in ("cpu family", "model", "stepping") if key in told)
    present = set((told.get("flags") or told.get("Features") or "").split())
    kind = " ".join(filter(None, [generation, *(name for name in _EXTENSIONS if name in present)]))
    return f"{processor_name()}{f' ({kind})' if kind else ''}, {threads or available_cores()} cores"


def _told() -> dict[str, str]:
    """What Linux tells of the first processor; elsewhere nothing."""
    told: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text().splitlines():
            key, _, value = line.partition(":")
            told.setdefault(key.strip(), value.strip())
    return told
