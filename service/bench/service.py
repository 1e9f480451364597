"""The service around the network: what it adds to one picture, how much of the device's time it uses, and overload."""

from __future__ import annotations

import io
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bench.load import Sample, Target, arriving, closed
from service.bench.machine import describe
from service.bench.server import Server, serving
from service.bench.timing import median_ms, p99_ms, quantile
from service.bundle.load import Bundle, EngineOptions, load_bundle
from service.errors import BadRequest, NotReady
from service.image.decode import decode, media_type_of
from service.image.packing import pack_tiles, packed
from service.image.prepare import prepare
from service.settings import Settings
from service.types import Timings

Row = dict[str, Any]
_SHARES = (0.5, 0.8, 1.0, 2.0, 4.0)  # of the measured capacity, at which requests arrive
_RAW_RUNS = 3  # of the network alone, before and after every load


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture that is posted."""

    name: str
    data: bytes
    media_type: str
    rgb: NDArray[np.uint8]


def pictures(bundle: Bundle, file: Path | None) -> list[Shown]:
    """The picture in `file`, or the bundle's last golden one, which shows a good part where it has several, as a 224x224 PNG
    and as a 1280x720 JPEG; loads are of the last.

    Raises BadRequest when the file cannot be read, UnreadableImage when it is no picture.
    """
    if file is not None:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise BadRequest(f"{file}: {error.strerror}") from error
        return [Shown(file.name, data, media_type_of(data), decode(data, 10**9))]
    golden = Image.fromarray(decode((bundle.folder / bundle.manifest.golden[-1].file).read_bytes(), 10**9))
    found = []
    for kind, size, options in (("PNG", (224, 224), {}), ("JPEG", (1280, 720), {"quality": 92})):
        buffer = io.BytesIO()
        golden.resize(size, Image.Resampling.LANCZOS).save(buffer, kind, **options)
        data = buffer.getvalue()
        found.append(Shown(f"{size[0]}x{size[1]} {kind}", data, Image.MIME[kind], decode(data, 10**9)))
    return found


def measure(
    folder: Path,
    settings: Settings,
    *,
    url: str | None = None,
    headers: dict[str, str] | None = None,
    picture: Path | None = None,
    clients: Sequence[int] = (1, 8),
    seconds: float = 20,
    rounds: int = 4,
) -> Row:
    """All figures: of a service that is started here, or of the one at `url` with `headers` (a key).

    `seconds` of load for each number of clients (over `rounds` turns) and each rate of arrivals.
    Raises BundleRefused, NotReady, BadRequest.
    """
    bundle = load_bundle(folder, EngineOptions.of(settings))
    bundle.session.warm_up()
    shown = pictures(bundle, picture)

    def run(base: str, server: Server | None) -> Row:
        path = f"{base}/detect?model={bundle.manifest.name}&version={bundle.manifest.version}"
        targets = [Target(path, each.data, each.media_type, headers or {}) for each in shown]
        idle_mb = server and server.resident_mb()
        at_rest = _at_rest(_kinds(shown, targets), seconds / 2, rounds)
        floor = closed(Target(f"{base}/healthz", b"", "text/plain", headers or {}, "GET"), 1, min(2.0, seconds))
        loads = _loads(targets[-1], _alone(bundle, shown[-1]), clients, seconds, rounds)
        capacity = max(load["pictures_per_s"] for load in loads)
        arrivals = [_arrivals(targets[-1], capacity, share, seconds) for share in _SHARES]
        ordinary = next(each["p99_ms"] for each in arrivals if each["of_capacity"] == 1)
        for each in arrivals:
            each["p99_over_capacity_s"] = round(each["p99_ms"] / ordinary, 2) if ordinary else math.nan
        return {
            "machine": describe(),
            "bundle": f"{bundle.manifest.name}/{bundle.manifest.version}",
            "teacher": bundle.manifest.teacher.name,
            "form": bundle.form_name,
            "provider": bundle.session.provider,
            "picture": shown[-1].name,
            "windows": pack_tiles(bundle.plan(shown[-1].rgb.shape[1], shown[-1].rgb.shape[0])).windows,
            "seconds_to_ready": server and round(server.ready_s, 2),
            "resident_mb_ready": idle_mb,
            "resident_mb_loaded": server and server.resident_mb(),
            "healthz_p50_ms": round(median_ms([each.seconds for each in _answered(floor)]), 2),
            "idle": at_rest,
            "closed_loop": loads,
            "open_loop": arrivals,
        }

    if url is not None:
        return run(url.rstrip("/"), None)
    name = {"model": bundle.manifest.name, "precision": settings.precision, "threads": settings.threads}
    with serving(folder.resolve().parents[1], **name) as server:
        return run(server.url, server)


def rows(result: Row) -> list[Row]:
    """The loads as one table."""
    columns = ("load", "pictures_per_s", "p50_ms", "p99_ms", "added_p50_ms", "service_over_network", "refused")
    told = [{"load": f"idle, {each['picture']}", **each} for each in result["idle"]]
    told += [{"load": f"{each['clients']} clients", **each} for each in result["closed_loop"]]
    told += [{"load": f"arrivals at {each['of_capacity']:g} x capacity", **each} for each in result["open_loop"]]
    return [{name: each.get(name) for name in columns} for each in told]


def _kinds(shown: Sequence[Shown], targets: Sequence[Target]) -> dict[str, tuple[int, Target]]:
    """What is posted at idle, by name, with its bytes: each picture as the service is set up, without a record, and as raw
    RGB."""
    found = {}
    for each, target in zip(shown, targets, strict=True):
        height, width = each.rgb.shape[:2]
        raw = {**target.headers, "x-image-shape": f"{height},{width},3"}
        found[each.name] = (len(each.data), target)
        found[f"{each.name}, store=none"] = (len(each.data), replace(target, url=f"{target.url}&store=none"))
        pixels = each.rgb.tobytes()
        found[f"{width}x{height} raw RGB"] = (
            len(pixels),
            Target(target.url, pixels, "application/octet-stream", raw),
        )
    return found


def _at_rest(kinds: dict[str, tuple[int, Target]], seconds: float, rounds: int) -> list[Row]:
    """One client, so that nothing waits: what an answer takes beside the network, which it tells itself. Kinds take turns.

    Raises NotReady when one is not answered.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (_, target) in kinds.items():
            samples[name] += _answered(closed(target, 1, seconds / rounds))
    if silent := [name for name, found in samples.items() if not found]:
        raise NotReady(f"the service does not answer {', '.join(silent)}")
    return [_idle(name, size, samples[name]) for name, (size, _) in kinds.items()]


def _idle(name: str, size: int, samples: list[Sample]) -> Row:
    added = [each.seconds - each.stages.get("network", 0.0) / 1000 for each in samples]
    return {
        "picture": name,
        "bytes": size,
        "answers": len(samples),
        "p50_ms": round(median_ms([each.seconds for each in samples]), 2),
        "p99_ms": round(p99_ms([each.seconds for each in samples]), 2),
        "added_p50_ms": round(median_ms(added), 2),
        "added_p90_ms": round(1000 * quantile(added, 0.9), 2),
        "stages_p50_ms": _stages(samples),
    }


def _stages(samples: list[Sample]) -> dict[str, float]:
    """Medians of the stages that answers tell, and of what is in none of them: HTTP on both sides, threads, JSON, records."""
    names = [stage.name for stage in fields(Timings)]
    stages = {name: [each.stages.get(name, 0.0) for each in samples] for name in names}
    stages["rest"] = [1000 * each.seconds - sum(each.stages.get(name, 0.0) for name in names) for each in samples]
    return {name: round(statistics.median(found), 2) if found else math.nan for name, found in stages.items()}


def _alone(bundle: Bundle, shown: Shown) -> Callable[[], float]:
    """Measures seconds of the network alone for one picture, with its windows in batches of the largest rung."""
    plan = bundle.plan(shown.rgb.shape[1], shown.rgb.shape[0])
    packing = pack_tiles(plan)
    windows = packed(prepare(shown.rgb, plan), packing)
    full = np.resize(windows, (math.lcm(len(windows), bundle.session.ladder[-1]), *windows.shape[1:]))
    wanted = packing.wanted * (len(full) // len(windows))

    def seconds() -> float:
        found = []
        for _ in range(_RAW_RUNS):
            started = time.perf_counter()
            bundle.session.run(full, wanted)
            found.append((time.perf_counter() - started) * len(windows) / len(full))
        return statistics.median(found)

    return seconds


def _loads(
    target: Target, alone: Callable[[], float], clients: Sequence[int], seconds: float, rounds: int
) -> list[Row]:
    """Each number of clients in turns with the network alone, which is measured before and after every turn."""
    samples: dict[int, list[Sample]] = {count: [] for count in clients}
    rates: dict[int, list[float]] = {count: [] for count in clients}
    networks: dict[int, list[float]] = {count: [] for count in clients}
    before = alone()
    for _ in range(rounds):
        for count in clients:
            found = closed(target, count, seconds / rounds)
            after = alone()
            samples[count] += found
            rates[count].append(_rate(found))
            networks[count].append((before + after) / 2)
            before = after
    return [_load(count, samples[count], rates[count], networks[count]) for count in clients]


def _load(count: int, samples: list[Sample], rates: list[float], networks: list[float]) -> Row:
    good = _answered(samples)
    answered = [each.seconds for each in good]
    over = [1 / (rate * network) for rate, network in zip(rates, networks, strict=True) if rate]
    return {
        "clients": count,
        "answers": len(samples),
        "statuses": _statuses(samples),
        "pictures_per_s": round(statistics.median(rates), 3),
        "p50_ms": round(median_ms(answered), 2),
        "p99_ms": round(p99_ms(answered), 2),
        "network_ms_per_picture": round(median_ms(networks), 2),
        "service_over_network": round(statistics.median(over), 3) if over else math.nan,
        "stages_p50_ms": _stages(good),
    }


def _rate(samples: list[Sample]) -> float:
    """Answers a second, from the first one's end to the last one's: neither start nor end of the load counts."""
    ends = sorted(each.ended for each in _answered(samples))
    return (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 else 0.0


def _arrivals(target: Target, capacity: float, share: float, seconds: float) -> Row:
    samples = arriving(target, capacity * share, seconds)
    admitted = [each.seconds for each in _answered(samples)]
    refusals = [each.seconds for each in samples if each.status == 429]
    return {
        "of_capacity": share,
        "arrivals_per_s": round(capacity * share, 3),
        "arrivals": len(samples),
        "statuses": _statuses(samples),
        "refused": len(refusals),
        "pictures_per_s": round(_rate(samples), 3),
        "p50_ms": round(median_ms(admitted), 2),
        "p99_ms": round(p99_ms(admitted), 2),
        "refusal_p99_ms": round(p99_ms(refusals), 2) if refusals else None,
    }


def _answered(samples: list[Sample]) -> list[Sample]:
    return [each for each in samples if each.status == 200]


def _statuses(samples: list[Sample]) -> dict[str, int]:
    return {str(status): count for status, count in sorted(Counter(each.status for each in samples).items())}
