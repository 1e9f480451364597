"""On what machine a result was measured."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from service.engine.machine import processor_name
from service.engine.session import available_cores


def describe() -> dict[str, object]:
    """Processor, cores, system and library versions, for a result file."""
    libraries = {}
    for name in ("onnxruntime-gpu", "onnxruntime", "openvino", "torch", "numpy", "pillow", "fastapi", "uvicorn"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": processor_name(),
        "cores": available_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": libraries,
    }
