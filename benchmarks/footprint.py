"""Time to ready and resident memory of the service for each form of a bundle, on a CPU.

    python -m benchmarks.footprint --bundle models/polka-dot/1 --json benchmarks/results/footprint.json

Each form is served by `flawscribe serve` in a child process with records, as by default; `--answers` pictures are posted by
four clients at once. `cpu_s_to_ready`: processor time of all its threads, which another load on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import http.client
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.machine import describe, tell
from service.bench.server import resident_mb, serving
from service.bundle.manifest import FormName
from service.bundle.verify import read_manifest
from service.engine.session import OPENVINO_FORMS, has_openvino

_CLIENTS = 4


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def most_resident_mb(pid: int) -> float:
    """The most resident memory a process has had, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6, 1)


def post(url: str, picture: bytes) -> int:
    """One picture to /detect; its status."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    connection.request("POST", "/detect", picture, {"content-type": "image/png", "x-deadline-ms": "600000"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def measure(bundle: Path, form: FormName, picture: bytes, answers: int) -> dict[str, object]:
    """All figures of one form."""
    provider = "openvino" if form in OPENVINO_FORMS else "cpu"
    settings = {"model": bundle.parent.name, "precision": form, "provider": provider}
    with serving(bundle.parents[1], **settings) as server:
        used, idle = cpu_seconds(server.pid), resident_mb(server.pid)
        with ThreadPoolExecutor(_CLIENTS) as clients:
            statuses = list(clients.map(lambda _: post(server.url, picture), range(answers)))
        return {
            "form": form,
            "provider": provider,
            "seconds_to_ready": round(server.ready_s, 2),
            "cpu_s_to_ready": round(used, 2),
            "resident_mb_ready": round(idle, 1),
            "answers": answers,
            "not_200": sum(status != 200 for status in statuses),
            "resident_mb_after": round(resident_mb(server.pid), 1),
            "resident_mb_most": most_resident_mb(server.pid),
        }


def main() -> None:
    """Measure every form that can be served here, and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/polka-dot/1"))
    parser.add_argument("--picture", type=Path, help="default: the bundle's first golden picture")
    parser.add_argument("--answers", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = options.bundle.resolve()
    manifest = read_manifest(bundle)
    picture = (options.picture or bundle / manifest.golden[0].file).read_bytes()
    forms = [name for name in manifest.forms if name != "fp16" and (name not in OPENVINO_FORMS or has_openvino())]
    rows = [measure(bundle, form, picture, options.answers) for form in forms]
    tell({"machine": describe(), "rows": rows}, options.json)


if __name__ == "__main__":
    main()
