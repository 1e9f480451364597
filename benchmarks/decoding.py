"""From bytes to windows and back to PNG: JPEGs decoded whole and at the scale that the working resolution needs, other
decoders where they are installed, and PNG compression levels for overlays and maps.

    python -m benchmarks.decoding --json benchmarks/results/decoding.json

Processor time, not wall time: other programs on the machine do not lengthen it.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import describe, tell
from service.bench.timing import quantile
from service.image.decode import decode_image, read_header
from service.image.prepare import PrepareRecipe, jpeg_scale, plan_tiles, prepare
from service.image.quality import measure
from service.samples import render

SIZES = ((1280, 720), (2448, 2048), (4000, 3000))
RECIPES = {kind: PrepareRecipe(value=448, jpeg=kind) for kind in ("full", "scaled")}
LEVELS = (0, 1, 3, 6, 9)


def cpu_ms(work: Callable[[], object], rounds: int) -> float:
    """Median processor milliseconds."""
    work()
    found = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        found.append(1000 * (time.process_time() - started))
    return round(quantile(found, 0.5), 2)


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """As a camera stores it."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def decoders(data: bytes) -> dict[str, Callable[[], object]]:
    """Other JPEG decoders that are installed, decoding the whole picture to RGB."""
    found: dict[str, Callable[[], object]] = {}
    if find_spec("simplejpeg") is not None:
        import simplejpeg  # noqa: PLC0415

        found["simplejpeg"] = lambda: simplejpeg.decode_jpeg(data, "RGB")
    if find_spec("cv2") is not None:
        import cv2  # noqa: PLC0415

        cv2.setNumThreads(1)
        found["opencv"] = lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return found


def sized(picture: NDArray[np.uint8], width: int, height: int, rounds: int) -> dict[str, Any]:
    """Figures of one size."""
    rgb = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
    data = jpeg(rgb)
    header = read_header(data, 10**9)
    row: dict[str, Any] = {"width": width, "height": height, "bytes": len(data)}
    windows = {}
    for kind, recipe in RECIPES.items():
        scale = jpeg_scale(header.width, header.height, recipe)
        plan = plan_tiles(header.width, header.height, recipe, global_map=True)
        seen = decode_image(data, 10**9, jpeg_scale=scale)
        windows[kind] = prepare(seen, plan)
        stages = {
            "decode": cpu_ms(lambda scale=scale: decode_image(data, 10**9, jpeg_scale=scale), rounds),
            "prepare": cpu_ms(lambda seen=seen, plan=plan: prepare(seen, plan), rounds),
            "gate": cpu_ms(lambda seen=seen, scale=scale: measure(seen, scale), rounds),
        }
        row[kind] = {"scale": scale, **stages, "all": round(sum(stages.values()), 2)}
    difference = np.abs(windows["full"].astype(np.int16) - windows["scaled"])
    row["windows_differ_by"] = {"mean": round(float(difference.mean()), 3), "p99": float(np.quantile(difference, 0.99))}
    row["other_decoders"] = {name: cpu_ms(work, rounds) for name, work in decoders(data).items()}
    return row


def levels(pixels: NDArray[Any], rounds: int) -> list[dict[str, Any]]:
    """Processor time and size of a picture as PNG at each compression level."""
    rows = []
    for level in LEVELS:

        def save(level: int = level) -> bytes:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
            return buffer.getvalue()

        rows.append({"level": level, "cpu_ms": cpu_ms(save, rounds), "bytes": len(save())})
    return rows


def main() -> None:
    """Print the figures; with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    picture = render("polka-dot", np.random.default_rng(1), "black_thread").image
    cells = np.random.default_rng(0).random((63, 112)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(cells).resize((1280, 720), Image.Resampling.BILINEAR))
    result = {
        "machine": describe(),
        "jpeg": [sized(picture, width, height, options.rounds) for width, height in SIZES],
        "png": {
            "overlay": levels(picture, options.rounds),
            "map": levels(np.rint(smooth * 65535).astype(np.uint16), options.rounds),
            "mask": levels((smooth > 0.8).astype(np.uint8) * 255, options.rounds),
        },
    }
    tell(result, options.json)


if __name__ == "__main__":
    main()
