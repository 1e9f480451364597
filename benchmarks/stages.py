"""Where the time of one picture goes: processor time of each stage by itself, for a good and a flawed picture, and how late
the event loop is, idle and at saturation.

    python -m benchmarks.stages --json benchmarks/results/stages.json
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoding import cpu_ms
from benchmarks.machine import describe, tell
from service.api.answers import Judged, json_answer
from service.bench.load import Target, closed
from service.bench.server import serving
from service.bench.service import pictures
from service.bundle.load import Bundle, EngineOptions, load_bundle
from service.decision.heatmap import draw_mask, draw_overlay, map_png
from service.image.decode import decode, decode_image, read_header
from service.image.packing import pack_tiles, packed
from service.image.prepare import jpeg_scale, prepare
from service.inspector import decide
from service.inspector import describe as descriptors_of
from service.types import Inspection, Timings, WindowMaps

_LAG = re.compile(r'flawscribe_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)')


def stages(bundle: Bundle, data: bytes, rounds: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds by stage, of the picture as it is and with a flaw in its map."""
    header = read_header(data, 10**9)
    plan = bundle.plan(header.width, header.height)
    scale = jpeg_scale(header.width, header.height, bundle.manifest.prepare)
    image, whole = decode_image(data, 10**9, jpeg_scale=scale), decode(data, 10**9)
    windows, packing = prepare(image, plan), pack_tiles(plan)
    few = packed(windows, packing)
    found: dict[str, dict[str, float]] = {}
    maps = bundle.session.run(windows, "maps and features")
    flawed = maps.structural.copy()
    flawed[0, 20:32, 20:32] += 10 * bundle.thresholds.reject
    for name, structural in (("good", np.zeros_like(flawed)), ("flawed", flawed)):
        answer = WindowMaps(structural, maps.logical, maps.features)
        mapped, verdict = decide(answer, bundle, plan, None, ())
        inspection = Inspection("i" * 32, bundle.identity, "0" * 64, lambda: whole, mapped, verdict, Timings())
        works: dict[str, Callable[[], object]] = {
            "header": lambda: read_header(data, 10**9),
            "decode": lambda: decode_image(data, 10**9, jpeg_scale=scale),
            "prepare": lambda: packed(prepare(image, plan), packing),
            "quality gate": lambda: bundle.manifest.quality_gate.reasons(image, header.width // image.width),
            "network": lambda: bundle.session.run(few),
            "map and verdict": lambda answer=answer: decide(answer, bundle, plan, None, ()),
            "descriptors": lambda a=answer, m=mapped, v=verdict: descriptors_of(a, lambda: whole, m, v),
            "JSON": lambda it=inspection: asyncio.run(_json(it, bundle)),
            "overlay, if asked for": lambda it=inspection: draw_overlay(it),
            "mask, if asked for": lambda it=inspection: draw_mask(it),
            "map, if asked for": lambda m=mapped: map_png(m),
        }
        found[name] = {stage: cpu_ms(work, rounds if stage != "network" else 5) for stage, work in works.items()}
    return found


async def _json(inspection: Inspection, bundle: Bundle) -> object:
    return await json_answer("r", [Judged(inspection)], bundle.identity, frozenset({"regions"}), "conformal", 0.25)


def lag(bundle: Bundle, target: tuple[bytes, str], form: str, clients: int, seconds: float) -> dict[str, float]:
    """Shares of timers that the event loop of a real service was late for, by how much, under `clients` clients."""
    folder = bundle.folder.resolve()
    with serving(folder.parents[1], model=folder.parent.name, precision=form, queue_windows=256) as server:
        if clients:
            closed(Target(f"{server.url}/detect", *target), clients, seconds)
        else:
            asyncio.run(asyncio.sleep(seconds))
        with urllib.request.urlopen(f"{server.url}/metrics") as answer:
            buckets = {bound: float(count) for bound, count in _LAG.findall(answer.read().decode())}
    total = buckets["+Inf"]
    return {
        bound: round(1 - count / total, 4) for bound, count in buckets.items() if bound in ("0.001", "0.005", "0.02")
    }


def main() -> None:
    """Print the figures; with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/polka-dot/1"))
    parser.add_argument("--form", default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle, EngineOptions(options.form))
    scaled = bundle.manifest.prepare.model_copy(update={"jpeg": "scaled"})
    scaled_bundle = dataclasses.replace(bundle, manifest=bundle.manifest.model_copy(update={"prepare": scaled}))
    shown = pictures(bundle, None)
    measured: dict[str, dict[str, float]] = {}
    for each in shown:
        for kind, found in stages(bundle, each.data, options.rounds).items():
            measured[f"{each.name}, {kind}"] = found
    measured[f"{shown[-1].name} scaled, good"] = stages(scaled_bundle, shown[-1].data, options.rounds)["good"]
    rows: list[dict[str, Any]] = [
        {"CPU_ms": stage, **{column: found[stage] for column, found in measured.items()}}
        for stage in next(iter(measured.values()))
    ]
    late = {
        name: lag(bundle, (shown[-1].data, shown[-1].media_type), options.form, clients, options.seconds)
        for name, clients in (("idle", 0), ("1 client", 1), ("16 clients", 16))
    }
    result = {"machine": describe(), "rows": rows, "event_loop_share_later_than_s": late}
    tell(result, options.json)


if __name__ == "__main__":
    main()
