"""Flawscribe beside plain FastAPI, LitServe and BentoML: the same ONNX file, pictures and cores, in turns in one run.

    python -m benchmarks.peers.compare --python /path/peers/bin/python --json benchmarks/results/peers.json

Every server stays loaded in memory; one works at a time, loaded by clients in processes of their own, while the others are
stopped by a signal, with all that they have started, so that none takes processor time from it.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, tell
from benchmarks.peers.work import BUNDLE, FORM
from service.bench.load import Sample, Target, closed, once
from service.bench.server import serving
from service.bench.service import pictures
from service.bench.timing import median_ms, p99_ms
from service.bundle.load import EngineOptions, load_bundle

COMMANDS = {
    "plain FastAPI": ["-m", "benchmarks.peers.plain", "{port}"],
    "LitServe": ["-m", "benchmarks.peers.lit", "{port}"],
    "BentoML": ["-m", "bentoml", "serve", "benchmarks.peers.bento:Detect", "--port", "{port}"],
}
_AS_SHIPPED = "Flawscribe, in the form it chooses itself"  # not the same network file, so beside the comparison
_BOUNDARY = "flawscribe-peers"
_START_S = 300


def multipart(data: bytes, media_type: str) -> tuple[bytes, str]:
    """A form with the part `image`."""
    head = f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="image"; filename="a"\r\ncontent-type: {media_type}\r\n\r\n'
    return head.encode() + data + f"\r\n--{_BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={_BOUNDARY}"


@contextlib.contextmanager
def peer(name: str, python: str, bundle: Path, form: str) -> Iterator[tuple[int, int]]:
    """A peer's server until the block ends; its port, and its first process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, *(part.format(port=port) for part in COMMANDS[name])]
    with tempfile.TemporaryDirectory() as home, (Path(home) / "log").open("w+") as log:
        environment = {**os.environ, BUNDLE: str(bundle), FORM: form, "PYTHONPATH": str(Path.cwd())}
        environment |= {"BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "1"}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield port, process.pid
        except BaseException:
            log.seek(0)
            print(f"{name}: {log.read()[-2000:]}")
            raise
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextlib.contextmanager
def alone(name: str, servers: Mapping[str, int]) -> Iterator[None]:
    """All servers but `name` stand still until the block ends, with all that they have started; `servers`: first processes."""
    others = [pid for other, first in servers.items() if other != name for pid in family(first)]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def family(pid: int) -> list[int]:
    """A process and those that it and its children have started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for known in found:  # grows while it is read
        found += [child for child, parent in parents.items() if parent == known]
    return found


def until_it_answers(target: Target) -> None:
    """Wait for a first good answer. Raises TimeoutError."""
    end = time.monotonic() + _START_S
    while once(target).status != 200:
        if time.monotonic() > end:
            raise TimeoutError(f"{target.url} does not answer")
        time.sleep(0.5)


def answer_of(target: Target) -> Any:
    """The JSON that a target answers with."""
    request = urllib.request.Request(target.url, target.body, {"content-type": target.media_type})
    with urllib.request.urlopen(request, timeout=_START_S) as answer:
        return json.load(answer)


def row(name: str, clients: int, samples: list[Sample], rates: list[float], base: list[float]) -> dict[str, Any]:
    """Figures of one server at one number of clients; `base` are Flawscribe's rates of the same rounds."""
    seconds = [each.seconds for each in samples if each.status == 200]
    return {
        "server": name,
        "clients": clients,
        "answers": len(seconds),
        "not_200": sum(each.status != 200 for each in samples),
        "pictures_per_s": round(statistics.median(rates), 3),
        "p50_ms": round(median_ms(seconds), 1),
        "p99_ms": round(p99_ms(seconds), 1),
        "rate_over_flawscribe": round(
            statistics.median(own / other for own, other in zip(rates, base, strict=True)), 3
        ),
    }


def main() -> None:
    """Measure all and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of the environment that has the peers")
    parser.add_argument("--bundle", type=Path, default=Path("models/polka-dot/1"))
    parser.add_argument("--form", default="int8")
    parser.add_argument("--seconds", type=float, default=20, help="of each load in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=(1, 8))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = options.bundle.resolve()
    shown = pictures(load_bundle(folder, EngineOptions(options.form, "cpu")), None)[-1]
    body, kind = multipart(shown.data, shown.media_type)
    text = base64.b64encode(shown.data).decode()
    as_json = {"LitServe": json.dumps({"image": text}).encode(), "BentoML": json.dumps({"images": [text]}).encode()}
    with contextlib.ExitStack() as stack:
        targets: dict[str, Target] = {}
        servers: dict[str, int] = {}
        for name, precision in (("Flawscribe", options.form), (_AS_SHIPPED, "auto")):
            own = {"model": folder.parent.name, "precision": precision, "queue_windows": 256, "store": "none"}
            server = stack.enter_context(serving(folder.parents[1], **own))
            targets[name] = Target(f"{server.url}/detect?version={folder.name}", body, kind)
            servers[name] = server.pid
        for name in COMMANDS:
            port, servers[name] = stack.enter_context(peer(name, options.python, folder, options.form))
            form, sent = (as_json[name], "application/json") if name in as_json else (body, kind)
            targets[name] = Target(f"http://127.0.0.1:{port}/detect", form, sent)
        scores = {}
        for name, target in targets.items():
            until_it_answers(target)
            told = answer_of(target)
            first = told["results"][0] if name.startswith("Flawscribe") else told[0] if isinstance(told, list) else told
            scores[name] = round(float(first["anomaly_score"]), 6)
        samples: dict[tuple[str, int], list[Sample]] = {}
        rates: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.rounds):
            for clients in options.clients:
                for name, target in targets.items():
                    with alone(name, servers):
                        found = closed(target, clients, options.seconds)
                    samples.setdefault((name, clients), []).extend(found)
                    good = sorted(each.ended for each in found if each.status == 200)
                    rates.setdefault((name, clients), []).append((len(good) - 1) / (good[-1] - good[0]))
    result = {
        "machine": describe(),
        "bundle": f"{folder.parent.name}/{folder.name}",
        "form": options.form,
        "picture": shown.name,
        "scores": scores,
        "rows": [
            row(name, clients, found, rates[name, clients], rates["Flawscribe", clients])
            for (name, clients), found in samples.items()
        ],
    }
    tell(result, options.json)


if __name__ == "__main__":
    main()
