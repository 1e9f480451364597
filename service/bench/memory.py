"""What memory costs: recalling a flaw among many reviewed cases, and many models at once in one service."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bench.load import Sample, Target, closed, once
from service.bench.machine import describe
from service.bench.server import Server, serving
from service.bench.service import Shown, pictures
from service.bench.timing import median_ms, p99_ms
from service.bundle.load import EngineOptions, load_bundle
from service.bundle.verify import manifest_text, read_manifest
from service.captions.descriptor import LENGTH, MAKING
from service.captions.memory import Memory
from service.engine.batcher import MOST_WINDOWS
from service.errors import BadRequest
from service.records.entities import StoredCase
from service.settings import Settings

Row = dict[str, Any]
_LABELS = 20
_TEACHER = "0" * 64
_ADDED = 5
_BUSY_CLIENTS = 16  # of one model, while another is asked by one client
_LONGEST_MS = 600_000  # an answer may take a while on a machine with other work


def recall(counts: Sequence[int], rounds: int = 200) -> list[Row]:
    """Milliseconds to recall a flaw among so many cases of one product, and to take one in; random descriptors. `recall_cpu`:
    processor time of all threads."""
    return [_recall(count, rounds) for count in counts]


def _recall(count: int, rounds: int) -> Row:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((_LABELS, LENGTH), np.float32)
    cases = [_reviewed(number, rng, centres) for number in range(count)]
    began = time.perf_counter()
    memory = Memory(cases)
    loading = time.perf_counter() - began
    asking, working, adding = [], [], []
    for number in range(rounds + _ADDED):
        query = _reviewed(number, rng, centres).descriptor
        began, worked = time.perf_counter(), time.process_time()
        memory.recall("plate", _TEACHER, query)
        asking.append(time.perf_counter() - began)
        working.append(time.process_time() - worked)
    for number in range(_ADDED):
        began = time.perf_counter()
        memory.add(_reviewed(count + number, rng, centres))
        adding.append(time.perf_counter() - began)
    return {
        "cases": count,
        "recall_p50_ms": round(median_ms(asking[_ADDED:]), 2),
        "recall_p99_ms": round(p99_ms(asking[_ADDED:]), 2),
        "recall_cpu_p50_ms": round(median_ms(working[_ADDED:]), 2),
        "add_p50_ms": round(median_ms(adding), 2),
        "load_s": round(loading, 2),
    }


def _reviewed(number: int, rng: np.random.Generator, centres: NDArray[np.float32]) -> StoredCase:
    label = number % _LABELS
    descriptor = centres[label] + rng.standard_normal(LENGTH, np.float32)
    descriptor[0] = MAKING
    return StoredCase(f"c{number}", f"i{number}", "plate", _TEACHER, f"type {label}", "", "", descriptor)


def bundles(folder: Path, settings: Settings, count: int, *, seconds: float = 20) -> Row:
    """`count` copies of the bundle in `folder` in one service: memory a model, the first answer of a cold one, and what one
    client of a model waits while another model is flooded; then the same models with memory for a tenth of them.

    Raises BundleRefused, NotReady, BadRequest for fewer than two.
    """
    if count < 2:
        raise BadRequest("--bundles must be at least 2")
    bundle = load_bundle(folder, EngineOptions.of(settings))
    shown, expected = pictures(bundle, None)[-1], bundle.resident_bytes
    own = {"model": "m0", "precision": settings.precision, "threads": settings.threads, "deadline_ms": _LONGEST_MS}
    own["queue_windows"] = MOST_WINDOWS  # a flood that asks again at once after each refusal would be measured instead
    with tempfile.TemporaryDirectory() as models:
        for number in range(count):
            _copy(folder, Path(models) / f"m{number}" / "1")
        with serving(Path(models), **own) as server:
            before, cold = server.resident_mb(), []
            for number in range(1, count):
                cold.append(_first_answer(server, shown, number))
            loaded = server.resident_mb()
            warm = [_first_answer(server, shown, number) for number in range(1, count)]
            fairness = _fairness(server, shown, seconds)
        room = max(2, count // 10)
        budget = room * expected / 2**20
        with serving(Path(models), **own, model_memory_mb=budget) as server:
            for number in range(1, count):
                _first_answer(server, shown, number)
            limited = server.resident_mb()
    return {
        "form": bundle.form_name,
        "models": count,
        "resident_mb_one": before,
        "resident_mb_all": loaded,
        "mb_a_model": round((loaded - before) / (count - 1), 1),
        "mb_a_model_expected": round(expected / 1e6, 1),
        "cold_answer_p50_ms": round(median_ms(cold), 1),
        "cold_answer_p99_ms": round(p99_ms(cold), 1),
        "warm_answer_p50_ms": round(median_ms(warm), 1),
        "budget_models": room,
        "resident_mb_within_budget": limited,
        **fairness,
    }


def _copy(folder: Path, target: Path) -> None:
    """The bundle under the name of its new place."""
    shutil.copytree(folder, target)
    manifest = read_manifest(target).model_copy(update={"name": target.parent.name, "version": int(target.name)})
    (target / "manifest.json").write_text(manifest_text(manifest))


def _target(server: Server, shown: Shown, number: int) -> Target:
    return Target(f"{server.url}/detect?model=m{number}", shown.data, shown.media_type)


def _first_answer(server: Server, shown: Shown, number: int) -> float:
    """Seconds of one answer of a model."""
    sample = once(_target(server, shown, number))
    if sample.status != 200:
        raise BadRequest(f"the service answered {sample.status}")
    return sample.seconds


def _fairness(server: Server, shown: Shown, seconds: float) -> Row:
    """One client of one model, alone and while another model is flooded."""
    rare, busy = _target(server, shown, 1), _target(server, shown, 0)
    alone = closed(rare, 1, seconds)
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(closed, busy, _BUSY_CLIENTS, seconds)
        beside = closed(rare, 1, seconds)
        flooding = flood.result()
    return {
        "rare_alone_p50_ms": _of(alone, median_ms),
        "rare_alone_p99_ms": _of(alone, p99_ms),
        "rare_beside_flood_p50_ms": _of(beside, median_ms),
        "rare_beside_flood_p99_ms": _of(beside, p99_ms),
        "rare_beside_flood_answers": sum(each.status == 200 for each in beside),
        "flood_p50_ms": _of(flooding, median_ms),
        "rare_refused": sum(each.status != 200 for each in beside),
    }


def _of(samples: list[Sample], figure: Callable[[list[float]], float]) -> float:
    """A figure in milliseconds of what was answered."""
    return round(figure([each.seconds for each in samples if each.status == 200]), 1)


def measure(folder: Path | None, settings: Settings, *, cases: Sequence[int], count: int, seconds: float) -> Row:
    """Both, with the machine; `folder` None: without models."""
    return {
        "machine": describe(),
        "cases": recall(cases),
        "models": None if folder is None else bundles(folder, settings, count, seconds=seconds),
    }
