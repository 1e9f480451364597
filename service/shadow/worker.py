"""`python -m service.shadow.worker`: the candidate's process. Pictures come in, what it says of each goes out as a line of JSON.

A process of its own, since a thread of low priority in the service would hold up the others whenever it held the
interpreter's lock.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
import sys
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from service.background import step_behind
from service.bundle.load import Bundle, EngineOptions, load_bundle
from service.engine.session import Provider, has_cuda
from service.errors import FlawscribeError
from service.inspector import Inspector, Picture
from service.metrics import Metrics

_HEAD = struct.Struct(">III")  # bytes of the picture; height and width of a raw one, else 0
_PATIENCE_S = 3600.0


class Task(NamedTuple):
    """What the process is started for, as its command line says it."""

    folder: str
    cores: int
    niceness: int
    max_pixels: int


def send(stream: IO[bytes], picture: Picture) -> None:
    """Write a picture for the worker. Raises OSError when it is gone."""
    height, width = (0, 0) if picture.raw is None else picture.raw.shape[:2]
    stream.write(_HEAD.pack(len(picture.data), height, width))
    stream.write(picture.data)
    stream.flush()


def receive(stream: IO[bytes]) -> Picture | None:
    """Read the next picture; None at the end."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    size, height, width = _HEAD.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        return None
    raw = np.frombuffer(data, np.uint8).reshape(height, width, 3) if height else None
    return Picture(data, raw=raw)


async def _judge(inspector: Inspector, bundle: Bundle, picture: Picture) -> dict[str, Any]:
    """The served path itself, so that the candidate says what it would say in service."""
    try:
        inspection = await inspector.inspect(picture, bundle, deadline=time.monotonic() + _PATIENCE_S)
    except FlawscribeError as error:
        return {"error": error.detail}
    verdict = inspection.verdict
    score = verdict.score if math.isfinite(verdict.score) else None
    return {"verdict": verdict.decision.value, "score": score, "reject": verdict.thresholds.reject}


async def _serve(bundle: Bundle, max_pixels: int) -> None:
    inspector = Inspector(Metrics(1.0), queue_windows=2**31, max_pixels=max_pixels, decode_threads=1)
    try:
        while (picture := await asyncio.to_thread(receive, sys.stdin.buffer)) is not None:
            _tell(await _judge(inspector, bundle, picture))
    finally:
        inspector.close()


def _tell(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main(task: Task) -> int:
    """Load, say so, then judge until no more comes. On the CPU: a device that answers clients is left alone; else in the form
    that the service takes too, whose thresholds are the ones to compare."""
    step_behind(task.cores, task.niceness)
    provider: Provider = "cpu" if has_cuda() else "auto"
    try:
        bundle = load_bundle(Path(task.folder), EngineOptions(provider=provider, threads=task.cores))
    except FlawscribeError as error:
        _tell({"refused": error.detail})
        return 1
    _tell({"precision": bundle.form_name})
    asyncio.run(_serve(bundle, task.max_pixels))
    return 0


if __name__ == "__main__":
    folder, *numbers = sys.argv[1:]
    sys.exit(main(Task(folder, *map(int, numbers))))
