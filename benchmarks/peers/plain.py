"""Plain FastAPI and ONNX Runtime, as a first version is written: one picture a run, in FastAPI's own threads."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File

from benchmarks.peers.work import judged, load, prepared

app = FastAPI()
bundle = load()


@app.post("/detect")
def detect(image: Annotated[bytes, File()]) -> dict[str, Any]:
    """One picture."""
    return judged(bundle, [prepared(bundle, image)])[0]


@app.get("/health")
def health() -> str:
    """There."""
    return "ok"


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
