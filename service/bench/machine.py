"""On what machine a result was measured."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from service.engine.session import available_cores


def describe() -> dict[str, object]:
    """Processor, cores, system and library versions, for a result file."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    libraries = {}
    for name in ("onnxruntime-gpu", "onnxruntime", "openvino", "torch", "numpy", "pillow", "fastapi", "uvicorn"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": processor,
        "cores": available_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": libraries,
    }
