"""Every speed measurement, one after the other, and the tables of docs/performance.md from their results.

    python -m benchmarks.performance                      # all that can be measured here: about an hour on two cores
    python -m benchmarks.performance network service      # some of them
    python -m benchmarks.performance --peers PYTHON peers # needs the interpreter of benchmarks/peers/__init__.py
    python -m benchmarks.performance tables               # only the tables

`network_pdn-small` is the network of a bundle with the teacher pdn-small and an autoencoder: of `--bundle`, or of one that is
trained for it in 20 steps, since time does not depend on weights.

The machine should have nothing else to do: what is compared runs in turns, but milliseconds are milliseconds.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

from benchmarks.machine import describe
from benchmarks.pages import Row, filled, markdown
from service.bundle.verify import read_manifest
from service.settings import environment
from service.training import forms, logical
from service.training.build import build
from service.training.runs import BuildSettings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
MODELS = ROOT / "models"
FLAWSCRIBE = [sys.executable, "-m", "service"]
BENCH = [*FLAWSCRIBE, "bench"]
NETWORK = [*BENCH, "network", "--rounds", "100"]  # fewer have no 99th percentile
SERVICE = [*BENCH, "service", "--seconds", "40"]
THREADS = [sys.executable, "-m", "benchmarks.cpu_threads"]
COMMANDS: dict[str, list[str]] = {
    "network": NETWORK,
    "service": SERVICE,
    "stages": [sys.executable, "-m", "benchmarks.stages"],
    "service_int8": SERVICE,
    "service_16": [*SERVICE, "--clients", "16"],
    "service_jpeg": SERVICE,
    "service_flawed": SERVICE,
    "network_pdn-small": NETWORK,
    "train": [*BENCH, "train"],
    "memory": [*BENCH, "memory"],
    "decoding": [sys.executable, "-m", "benchmarks.decoding"],
    "cpu_threads": THREADS,
    "cpu_threads_1": [*THREADS, "--cores", "1"],
}
SETTINGS: dict[str, dict[str, object]] = {"service_int8": {"precision": "int8"}, "service_16": {"queue_windows": 64}}


def run(name: str, command: Sequence[str], bundle: Path, **more: str) -> None:
    """Measure with those settings and keep the result; one that does not name its machine and its bundle is given them."""
    print(f"{name}: {' '.join(command)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        settings = environment(**SETTINGS.get(name, {}), **more)
        subprocess.run([*command, "--json", str(file)], cwd=ROOT, check=True, env=settings)
        result = json.loads(file.read_text())
    if isinstance(result, list):
        manifest = read_manifest(bundle)
        told = {
            "bundle": f"{manifest.name}/{manifest.version}",
            "teacher": manifest.teacher.name,
            "network": manifest.network.size,
            "autoencoder": manifest.network.global_map,
        }
        result = {"machine": describe(), **told, "rows": result}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def trained(folder: Path, teacher: str) -> Path:
    """A bundle with that teacher and an autoencoder, in every form, of no use but to be timed: what so few steps would leave out
    for want of worth is kept."""
    parts = folder / "parts"
    subprocess.run(
        [*FLAWSCRIBE, "samples", "polka-dot", str(parts), "--good", "20", "--flawed", "0"], cwd=ROOT, check=True
    )
    settings = BuildSettings(
        data=parts / "train" / "good",
        name=teacher,
        models_dir=folder / "models",
        runs_dir=folder / "runs",
        teacher=teacher,
        steps=20,
        layout="free",
    )
    with mock.patch.object(logical, "LEAST", -math.inf), mock.patch.object(forms, "_FORM_LOSS", math.inf):
        return build(settings, print)


def as_of_jpegs(folder: Path) -> Path:
    """The bundled models as training on JPEGs of the benchmark's size writes them: those are decoded at half their size."""
    shutil.copytree(MODELS, folder / "models")
    for file in folder.glob("models/polka-dot/*/manifest.json"):
        told = json.loads(file.read_text())
        told["prepare"]["jpeg"] = "scaled"
        file.write_text(json.dumps(told))
    return folder / "models"


def flawed_picture(folder: Path) -> Path:
    """A picture of a part with a black thread."""
    subprocess.run([*FLAWSCRIBE, "samples", "polka-dot", str(folder / "flawed"), "--good", "1"], cwd=ROOT, check=True)
    return folder / "flawed" / "test" / "black_thread" / "000.png"


def network(result: Row) -> str:
    """Forms, rungs, references."""
    columns = {
        "form": "form",
        "provider": "run by",
        "wanted": "computed of a window",
        "batch": "windows",
        "gflop": "GFLOP a window",
        "median_ms": "median ms",
        "p99_ms": "p99 ms",
        "windows_per_s": "windows/s",
        "ratio_to_float32": "x float32",
    }
    if not result.get("autoencoder"):  # there is but one map
        del columns["wanted"]
    there = {name: heading for name, heading in columns.items() if name in result["rows"][0]}
    beside = "an autoencoder" if result.get("autoencoder") else "no autoencoder"
    told = (
        f"{result['bundle']}: teacher `{result['teacher']}`, student PDN-{result['network']}, {beside}.\n\n"
        if "teacher" in result
        else ""
    )
    return told + markdown(result["rows"], there)


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
    model = f"{result['bundle']} (teacher `{result['teacher']}`), " if "teacher" in result else ""
    facts = (
        f"{model}{result['form']} on {result['provider']}, {result['picture']} ({result['windows']} windows a picture); "
        f"ready after {result['seconds_to_ready']:g} s with {result['resident_mb_ready']:g} MB, "
        f"{result['resident_mb_loaded']:g} MB after the load."
    )
    tables = (markdown(result[key], columns) for key, columns in
              (("idle", idle), ("closed_loop", loads), ("open_loop", arrivals)))  # fmt: skip
    return "\n\n".join([facts, *tables])


def aims(result: Row) -> str:
    """What was aimed at beside what was reached, in every way that the service was measured. `result`: the first of them."""
    headings = {
        "service": "OpenVINO's int8",
        "service_int8": "ONNX Runtime's int8",
        "service_jpeg": "as trained on JPEGs, OpenVINO",
        "service_16": "16 clients, OpenVINO",
        "service_flawed": "flawed picture, OpenVINO",
    }
    files = {name: RESULTS / f"{name}.json" for name in headings}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    rows: list[Row] = [
        {"what": "added at idle, 224x224 PNG, ms", "aim": 3},
        {"what": "added at idle, 1280x720 JPEG (flawed: PNG), ms", "aim": 12},
        {"what": "service / network, one client", "aim": None},
        {"what": "service / network, most clients", "aim": 1.1},
        {"what": "p99 at 4 x capacity / at capacity", "aim": 2},
    ]
    for name, measured in found.items():
        as_set_up = [
            each for each in measured["idle"] if "store=" not in each["picture"] and "raw" not in each["picture"]
        ]
        small = [each["added_p50_ms"] for each in as_set_up if each["picture"] == "224x224 PNG"]
        loads = {each["clients"]: each["service_over_network"] for each in measured["closed_loop"]}
        values = [
            small[0] if small else None,
            as_set_up[-1]["added_p50_ms"],
            loads.get(1),
            loads[max(loads)],
            next(each["p99_over_capacity_s"] for each in measured["open_loop"] if each["of_capacity"] == 4),
        ]
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return markdown(rows, {"what": "", "aim": "aim", **{name: headings[name] for name in found}})


def waits(result: Row) -> str:
    """The stages that answers tell, and what is in none of them, idle and loaded."""
    loads = [{**each, "picture": f"{result['picture']}, clients: {each['clients']}"} for each in result["closed_loop"]]
    told = [each for each in result["idle"] + loads if "rest" in each.get("stages_p50_ms", {})]
    if not told:
        return "Not measured yet."
    names = list(told[0]["stages_p50_ms"])
    columns = {"picture": "p50, ms", **{name: name for name in names[:-1]}, "rest": "in no stage", "p50_ms": "in all"}
    rows = [{"picture": each["picture"], **each["stages_p50_ms"], "p50_ms": each["p50_ms"]} for each in told]
    floor = f"The least that a request takes here (`/healthz`, p50): {result['healthz_p50_ms']:g} ms."
    return f"{markdown(rows, columns)}\n\n{floor}"


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
        + _profile(result)
    )


def _profile(result: Row) -> str:
    columns = {
        "part": "part of a step",
        "default_ms": "default, ms",
        "default_convolutions_ms": "of it convolutions",
        "reference_ms": "reference, ms",
        "reference_convolutions_ms": "of it convolutions",
    }
    return f"\n\n{markdown(result['profile'], columns)}" if "profile" in result else ""


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
    """Where the time of a picture goes: the processor's, and by the clock what is beside the stages; and the event loop."""
    found = [result["rows"], *([result["beside_the_stages"]] if "beside_the_stages" in result else [])]
    told = [markdown(rows, {name: name.replace("_", " ") for name in rows[0]}) for rows in found]
    late = [
        {"load": load, **{bound: f"{share:.1%}" for bound, share in shares.items()}}
        for load, shares in result["event_loop_share_later_than_s"].items()
    ]
    columns = {"load": "timers of the event loop, late by more than"}
    columns |= {bound: f"{1000 * float(bound):g} ms" for bound in late[0] if bound != "load"}
    return "\n\n".join([*told, markdown(late, columns)])


def cpu_threads(result: Row) -> str:
    """Threads and windows."""
    columns = {"case": "case", "cpu_ms_per_window": "CPU ms a window", "ms_per_window": "by the clock"}
    there = {name: heading for name, heading in columns.items() if name in result["rows"][0]}
    return markdown(result["rows"], there)


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


TABLES: dict[str, tuple[str, Callable[[Row], str]]] = {  # of the page: the result it is made of, and how
    "network": ("network", network),
    "network_pdn-small": ("network_pdn-small", network),
    "service": ("service", service),
    "aims": ("service", aims),
    "waits": ("service", waits),
    "train": ("train", train),
    "memory": ("memory", memory),
    "decoding": ("decoding", decoding),
    "stages": ("stages", stages),
    "cpu_threads": ("cpu_threads", cpu_threads),
    "cpu_threads_1": ("cpu_threads_1", cpu_threads),
    "peers": ("peers", peers),
}


def with_tables(page: str) -> str:
    """The page with every table made anew from its result file."""
    for name, (source, write) in TABLES.items():
        file = RESULTS / f"{source}.json"
        told = "Not measured yet."
        if file.exists():
            result = json.loads(file.read_text())
            machine = result["machine"]
            link = f"[{source}.json](../benchmarks/results/{source}.json)"
            cores = f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}"
            told = f"{write(result)}\n\n{machine['processor']}, {cores}: {link}"
        page = filled(page, name, told)
    return page


def main() -> None:
    """Measure what is named, all by default, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="*", help=f"{', '.join(COMMANDS)}, peers, tables; all but peers when none is named"
    )
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter that has the peers installed")
    parser.add_argument("--bundle", type=Path, help="bundle for network_pdn-small (default: one is trained for it)")
    options = parser.parse_args()
    commands = dict(COMMANDS)
    if options.peers:
        commands["decoding"] = [options.peers, "-m", "benchmarks.decoding"]  # with other decoders, if it has them
        commands["peers"] = [sys.executable, "-m", "benchmarks.peers.compare", "--python", options.peers]
    if unknown := set(options.what) - set(commands) - {"tables"}:
        parser.error(f"nothing is called {', '.join(sorted(unknown))} (peers needs --peers PYTHON)")
    with tempfile.TemporaryDirectory() as made:
        for name in [name for name in options.what or commands if name in commands]:
            command, bundle = commands[name], MODELS / "polka-dot" / "1"
            if name == "network_pdn-small":
                bundle = options.bundle or trained(Path(made), "pdn-small")
            if name.startswith("network"):
                command = [*command, "--bundle", str(bundle)]
            if name == "service_flawed":
                command = [*command, "--picture", str(flawed_picture(Path(made)))]
            more = {"models_dir": str(as_of_jpegs(Path(made)))} if name == "service_jpeg" else {}
            run(name, command, bundle, **more)
            PAGE.write_text(with_tables(PAGE.read_text()))
    PAGE.write_text(with_tables(PAGE.read_text()))


if __name__ == "__main__":
    main()
