"""Every speed measurement, one after the other, and the tables of docs/performance.md from their results.

    python -m benchmarks.performance                      # all that can be measured here: about 40 minutes on two cores
    python -m benchmarks.performance network service      # some of them
    python -m benchmarks.performance --peers PYTHON peers # needs the interpreter of benchmarks/peers/__init__.py
    python -m benchmarks.performance tables               # only the tables

The machine should have nothing else to do: what is compared runs in turns, but milliseconds are milliseconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
BENCH = [sys.executable, "-m", "service", "bench"]
COMMANDS: dict[str, list[str]] = {
    "network": [*BENCH, "network", "--rounds", "30"],
    "service": [*BENCH, "service", "--seconds", "40"],
    "train": [*BENCH, "train"],
    "memory": [*BENCH, "memory"],
    "decoding": [sys.executable, "-m", "benchmarks.decoding"],
    "stages": [sys.executable, "-m", "benchmarks.stages"],
}
Row = dict[str, Any]


def run(name: str, command: Sequence[str]) -> None:
    """Measure and keep the result; one that does not name its machine is given it."""
    print(f"{name}: {' '.join(command)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        subprocess.run([*command, "--json", str(file)], cwd=ROOT, check=True)
        result = json.loads(file.read_text())
    if isinstance(result, list):
        result = {"machine": describe(), "rows": result}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def markdown(rows: Iterable[Row], columns: dict[str, str]) -> str:
    """A table of `columns`: key in the rows -> heading."""
    lines = [f"| {' | '.join(columns.values())} |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(key)) for key in columns) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def network(result: Row) -> str:
    """Forms, rungs, references."""
    columns = {
        "form": "form",
        "provider": "run by",
        "batch": "windows",
        "median_ms": "median ms",
        "p99_ms": "p99 ms",
        "windows_per_s": "windows/s",
        "ratio_to_float32": "x float32",
    }
    return markdown(result["rows"], columns)


def service(result: Row) -> str:
    """Idle, closed and open loop."""
    idle = {
        "picture": "picture",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "added_p50_ms": "added to the network, p50 ms",
        "added_p90_ms": "p90 ms",
    }
    loads = {
        "clients": "clients",
        "pictures_per_s": "pictures/s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "network_ms_per_picture": "network alone, ms a picture",
        "service_over_network": "service / network",
    }
    arrivals = {
        "of_capacity": "arrivals, x capacity",
        "arrivals": "arrived",
        "refused": "refused (429)",
        "p50_ms": "admitted p50 ms",
        "p99_ms": "p99 ms",
        "p99_over_capacity_s": "p99 / p99 at capacity",
        "refusal_p99_ms": "refusal p99 ms",
    }
    facts = (
        f"{result['form']} on {result['provider']}, {result['picture']} ({result['windows']} windows a picture); "
        f"ready after {result['seconds_to_ready']:g} s with {result['resident_mb_ready']:g} MB, "
        f"{result['resident_mb_loaded']:g} MB after the load."
    )
    tables = (markdown(result[key], columns) for key, columns in
              (("idle", idle), ("closed_loop", loads), ("open_loop", arrivals)))  # fmt: skip
    return "\n\n".join([facts, *tables])


def train(result: Row) -> str:
    """A step of each way."""
    columns = {
        "way": "way",
        "windows_per_step": "windows a step",
        "median_ms": "ms a step",
        "ratio_to_reference": "x reference",
        "gflop_per_step": "GFLOP a step",
        "gflop_per_s": "GFLOP/s",
        "share_of_limit": "of the limit",
        "steps": "steps",
        "minutes_in_all": "minutes of steps",
    }
    limits = ", ".join(f"{name} {value:g}" for name, value in result["matrix_limit_gflop_per_s"].items())
    return (
        f"PDN-{result['network']} on {result['device']}; the limit of a large matrix product, GFLOP/s: {limits}.\n\n"
        + (markdown(result["rows"], columns))
    )


def memory(result: Row) -> str:
    """Recall, and many models."""
    recall = {
        "cases": "cases",
        "recall_p50_ms": "recall p50 ms",
        "recall_p99_ms": "p99 ms",
        "add_p50_ms": "taking one in, ms",
        "load_s": "loading, s",
    }
    figures = [{"figure": name.replace("_", " "), "value": value} for name, value in (result["models"] or {}).items()]
    many = markdown(figures, {"figure": "many models", "value": ""}) if figures else "Many models: not measured yet."
    return "\n\n".join([markdown(result["cases"], recall), many])


def decoding(result: Row) -> str:
    """JPEGs whole and scaled, PNG levels."""
    rows = []
    for size in result["jpeg"]:
        others = ", ".join(f"{name} {value:g}" for name, value in size["other_decoders"].items())
        rows.append(
            {
                "size": f"{size['width']}x{size['height']}",
                "full": size["full"]["all"],
                "of": size["full"]["decode"],
                "scaled": size["scaled"]["all"],
                "scale": f"1/{size['scaled']['scale']}",
                "differ": size["windows_differ_by"]["mean"],
                "others": others,
            }
        )
    columns = {
        "size": "JPEG",
        "full": "whole: decode, windows, gate, CPU ms",
        "of": "of it decode",
        "scaled": "scaled, CPU ms",
        "scale": "at",
        "differ": "windows differ by, grey levels",
        "others": "other decoders, decode alone, CPU ms",
    }
    levels = [
        {"kind": kind, "level": each["level"], "cpu_ms": each["cpu_ms"], "kb": round(each["bytes"] / 1000, 1)}
        for kind, found in result["png"].items()
        for each in found
    ]
    named = {"kind": "PNG of 1280x720", "level": "level", "cpu_ms": "CPU ms", "kb": "kB"}
    return "\n\n".join([markdown(rows, columns), markdown(levels, named)])


def stages(result: Row) -> str:
    """Where the time of a picture goes."""
    columns = {name: name.replace("_", " ") for name in result["rows"][0]}
    return markdown(result["rows"], columns)


def peers(result: Row) -> str:
    """Flawscribe beside others."""
    columns = {
        "server": "server",
        "clients": "clients",
        "pictures_per_s": "pictures/s",
        "rate_over_flawscribe": "x Flawscribe",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "not_200": "not answered",
    }
    return f"{result['bundle']} {result['form']}, {result['picture']}.\n\n" + markdown(result["rows"], columns)


TABLES: dict[str, Callable[[Row], str]] = {
    "network": network,
    "service": service,
    "train": train,
    "memory": memory,
    "decoding": decoding,
    "stages": stages,
    "peers": peers,
}


def with_tables(page: str) -> str:
    """The page with every table made anew from its result file."""
    for name, write in TABLES.items():
        file = RESULTS / f"{name}.json"
        if file.exists():
            result = json.loads(file.read_text())
            machine = result["machine"]
            source = f"[{name}.json](../benchmarks/results/{name}.json)"
            told = f"{write(result)}\n\n{machine['processor']}, {machine['cores']} cores: {source}"
            begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
            before, _, rest = page.partition(begin)
            page = f"{before}{begin}\n{told}\n{end}{rest.partition(end)[2]}"
    return page


def main() -> None:
    """Measure what is named, all by default, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="*", help=f"{', '.join(COMMANDS)}, peers, tables; all but peers when none is named"
    )
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter that has the peers installed")
    options = parser.parse_args()
    commands = dict(COMMANDS)
    if options.peers:
        commands["decoding"] = [options.peers, "-m", "benchmarks.decoding"]  # with other decoders, if it has them
        commands["peers"] = [sys.executable, "-m", "benchmarks.peers.compare", "--python", options.peers]
    if unknown := set(options.what) - set(commands) - {"tables"}:
        parser.error(f"nothing is called {', '.join(sorted(unknown))} (peers needs --peers PYTHON)")
    for name in options.what or commands:
        if name in commands:
            run(name, commands[name])
    PAGE.write_text(with_tables(PAGE.read_text()))


if __name__ == "__main__":
    main()
