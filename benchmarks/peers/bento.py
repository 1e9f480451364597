"""BentoML with adaptive batching."""

from __future__ import annotations

import base64
from typing import Any

import bentoml

from benchmarks.peers.work import judged, load, prepared


@bentoml.service(workers=1, traffic={"timeout": 600})
class Detect:
    """Pictures come as base64 in JSON: its batches are made of lists."""

    def __init__(self) -> None:
        self.bundle = load()

    @bentoml.api(batchable=True, max_batch_size=4, max_latency_ms=600_000)
    def detect(self, images: list[str]) -> list[dict[str, Any]]:
        """A batch."""
        return judged(self.bundle, [prepared(self.bundle, base64.b64decode(image)) for image in images])
