"""Where the time of one picture goes: processor time of each stage by itself, for a good and a flawed picture; what an answer
takes beside its stages at idle, by the clock; and how late the event loop is, idle and at saturation.

    python -m benchmarks.stages --json benchmarks/results/stages.json
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import re
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.decoding import cpu_ms
from benchmarks.machine import describe, tell
from service.api.answers import Judged, json_answer
from service.api.app import create_app
from service.api.connection import Connection
from service.bench.load import Sample, Target, closed
from service.bench.server import serving
from service.bench.service import pictures
from service.bundle.load import Bundle, EngineOptions, load_bundle
from service.commands.serve import listen
from service.decision.heatmap import draw_mask, draw_overlay, map_png
from service.image.decode import decode, decode_image, read_header
from service.image.packing import pack_tiles, packed
from service.image.prepare import jpeg_scale, prepare
from service.inspector import decide
from service.inspector import describe as descriptors_of
from service.settings import load_settings
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
            "network": lambda: bundle.session.run(few, packing.wanted),
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


class Clocked:
    """An app that notes when each POST reached it, had its whole body and began its answer; and when its picture was judged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.noted: list[dict[str, float]] = []
        inspector = app.state.service.inspector  # type: ignore[attr-defined]
        inspect = inspector.inspect

        async def timed(*given: Any, **named: Any) -> Inspection:
            row = self.noted[-1]  # one client: the newest request is the only one
            row["inspect"] = time.monotonic()
            inspection: Inspection = await inspect(*given, **named)
            row["judged"] = time.monotonic()
            return inspection

        inspector.inspect = timed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        row = {"called": time.monotonic()}
        self.noted.append(row)

        async def received() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                row["body"] = time.monotonic()
            return message

        async def sent(message: Message) -> None:
            row.setdefault("answer", time.monotonic())
            await send(message)

        await self.app(scope, received, sent)


def beside(bundle: Bundle, kinds: dict[str, tuple[str, bytes, str]], form: str, seconds: float) -> list[dict[str, Any]]:
    """Medians in milliseconds, by the clock, of what an answer takes at idle from the request to its last byte: of each kind
    (query, body, media type). The service runs in this process, its client in another."""
    columns: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as records:
        folder = bundle.folder.resolve()
        named = {"models_dir": folder.parents[1], "model": folder.parent.name, "precision": form}
        app = create_app(load_settings(records_dir=Path(records) / "records", **named))
        clocked, listener = Clocked(app), listen("127.0.0.1", 0)
        config = uvicorn.Config(
            clocked, http=Connection, ws="none", log_level="warning", access_log=False, server_header=False
        )
        server = uvicorn.Server(config)

        def drive() -> None:
            try:
                while not app.state.service.lifecycle.ready:
                    time.sleep(0.1)
                for name, (query, body, media_type) in kinds.items():
                    url = f"http://127.0.0.1:{listener.getsockname()[1]}/detect{query}"
                    closed(Target(url, body, media_type), 1, 1)
                    clocked.noted.clear()
                    samples = closed(Target(url, body, media_type), 1, seconds)
                    columns[name] = _between(samples, clocked.noted)
            finally:
                server.should_exit = True

        driver = threading.Thread(target=drive)
        driver.start()
        server.run(sockets=[listener])
        driver.join()
    rows = next(iter(columns.values()))
    return [{"ms": row, **{name: found[row] for name, found in columns.items()}} for row in rows]


def _between(samples: list[Sample], noted: list[dict[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for sample, at in zip(samples, noted, strict=True):
        began, ended = sample.ended - sample.seconds, sample.ended
        staged = {name: sample.stages[name] for name in asdict(Timings())}
        spans = {
            "sent, head parsed": at["called"] - began,
            "body arrives": at["body"] - at["called"],
            "routing, parameters, picture out of the body": at["inspect"] - at["body"],
            "changes of thread, sha256, tasks": at["judged"] - at["inspect"] - sum(staged.values()) / 1000,
            "JSON, and the record where there is one": at["answer"] - at["judged"],
            "sent back, read by the client": ended - at["answer"],
            "in all": sample.seconds,
        }
        for name, value in spans.items():
            found.setdefault(name, []).append(1000 * value)
        found.setdefault("the stages, network included", []).append(sum(staged.values()))
        found.setdefault("beside the stages", []).append(1000 * sample.seconds - sum(staged.values()))
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


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
    small, large = shown
    kinds = {
        f"{small.name}, store=none": ("?store=none", small.data, small.media_type),
        f"{small.name}, record": ("?store=record", small.data, small.media_type),
        f"{small.name}, image": ("?store=image", small.data, small.media_type),
        f"{large.name}, record": ("?store=record", large.data, large.media_type),
    }
    result = {
        "machine": describe(),
        "bundle": f"{bundle.manifest.name}/{bundle.manifest.version}",
        "teacher": bundle.manifest.teacher.name,
        "form": bundle.form_name,
        "rows": rows,
        "beside_the_stages": beside(bundle, kinds, options.form, options.seconds),
        "event_loop_share_later_than_s": late,
    }
    tell(result, options.json)


if __name__ == "__main__":
    main()
