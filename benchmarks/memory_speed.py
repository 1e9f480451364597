"""How long memory takes to answer among many reviewed cases, and to take one in. Random descriptors of the teacher's size.

`recall_cpu` is processor time of all threads; where other programs use the machine too, wall time is longer.

    OPENBLAS_NUM_THREADS=2 python -m benchmarks.memory_speed --json benchmarks/results/memory_speed.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from service.captions.descriptor import FIGURES
from service.captions.memory import Memory
from service.records.entities import StoredCase

CHANNELS = 384
LABELS = 20
TEACHER = "0" * 64


def reviewed(number: int, rng: np.random.Generator, centres: NDArray[np.float32]) -> StoredCase:
    label = number % LABELS
    descriptor = centres[label] + rng.standard_normal(CHANNELS + FIGURES, np.float32)
    return StoredCase(f"c{number}", f"i{number}", "plate", TEACHER, f"type {label}", "", "", descriptor)


def milliseconds(seconds: list[float]) -> dict[str, float]:
    return {
        "p50_ms": round(1000 * float(np.median(seconds)), 2),
        "p99_ms": round(1000 * float(np.quantile(seconds, 0.99)), 2),
    }


def measure(count: int, rounds: int) -> dict[str, object]:
    """Figures for a memory of `count` cases of one product."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((LABELS, CHANNELS + FIGURES), np.float32)
    cases = [reviewed(number, rng, centres) for number in range(count)]
    began = time.perf_counter()
    memory = Memory(cases)
    loading = time.perf_counter() - began
    asking, working, adding = [], [], []
    for number in range(rounds + 5):
        query = reviewed(number, rng, centres).descriptor
        began, worked = time.perf_counter(), time.process_time()
        memory.recall("plate", TEACHER, query)
        asking.append(time.perf_counter() - began)
        working.append(time.process_time() - worked)
    for number in range(5):
        began = time.perf_counter()
        memory.add(reviewed(count + number, rng, centres))
        adding.append(time.perf_counter() - began)
    return {
        "cases": count,
        "recall": milliseconds(asking[5:]),
        "recall_cpu": milliseconds(working[5:]),
        "add": milliseconds(adding),
        "load_s": round(loading, 2),
    }


def main() -> None:
    """Print the figures; with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", default=(1_000, 10_000, 100_000))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [measure(count, options.rounds) for count in options.cases]
    for row in rows:
        print(json.dumps(row))
    if options.json is not None:
        load = round(os.getloadavg()[0], 1)  # others may share the machine
        content = {
            "machine": describe(),
            "load_average": load,
            "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "all"),
            "descriptor": CHANNELS + FIGURES,
            "rounds": options.rounds,
            "rows": rows,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
