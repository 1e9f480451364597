"""Mixed valid and broken requests from several processes for a long time: no 5xx but 503 and 504, no connection lost, memory
flat. A third of the pictures are generated parts of the bundled product, good and flawed; the others are noise.

python -m benchmarks.soak --minutes 60 --json benchmarks/results/soak.json
python -m benchmarks.soak --minutes 60 --pace 2                  # beside other work: two requests a second in all
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import describe, tell
from service.bench.server import resident_mb
from service.samples import flaw_types, render

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")


def encoded(pixels: NDArray[np.uint8], kind: str) -> bytes:
    """The picture in a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def part_files() -> list[bytes]:
    """Parts of the bundled product, a good one for each with a flaw, in every format."""
    shown = [flaw for kind in flaw_types("polka-dot") for flaw in (None, kind)]
    parts = [render("polka-dot", np.random.default_rng(k), flaw).image for k, flaw in enumerate(shown)]
    return [encoded(part, kind) for part in parts for kind in FORMATS]


def picture(rng: random.Random, files: list[bytes]) -> bytes:
    """A part in a file, or noise."""
    if rng.random() < 0.33:
        return rng.choice(files)
    side = rng.choice((64, 224, 300))
    noise = np.random.default_rng(rng.randrange(50)).integers(0, 256, (side, side * 16 // 9, 3), dtype=np.uint8)
    return encoded(noise, rng.choice(FORMATS))


def requests(rng: random.Random, files: list[bytes]) -> tuple[bytes, dict[str, str], str]:
    """One request: mostly sound, in any form, or broken in one of many ways. Returns body, headers, query."""
    sound = picture(rng, files)
    kind = rng.randrange(15)
    headers = {"content-type": "image/png"}
    if kind < 6:
        return sound, headers, "" if kind else "?include=regions,map,mask,overlay"
    if kind == 6:
        body = json.dumps({"images": [{"data": base64.b64encode(sound).decode()}] * 2}).encode()
        return body, {"content-type": "application/json"}, ""
    if kind == 7:
        return sound[: rng.randrange(len(sound))], headers, ""
    if kind == 8:
        broken = bytearray(sound)
        for _ in range(20):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        return bytes(broken), headers, ""
    if kind == 9:
        return rng.randbytes(rng.randrange(5000)), {"content-type": rng.choice(("image/png", "text/html", ""))}, ""
    if kind == 10:
        return sound, headers, rng.choice(("?nonsense=1", "?threshold=x", "?model=none", "?version=99", "?include=x"))
    if kind == 11:
        shape = rng.choice(("10,10,3", "0,1,3", "x", "99999,99999,3"))
        return bytes(300), {"content-type": "application/octet-stream", "x-image-shape": shape}, ""
    if kind == 12:
        return sound, {**headers, "x-deadline-ms": str(rng.choice((1, 20, 100)))}, ""
    if kind == 13:
        parts = [(b'name="image"; filename="a.png"', sound), (b'name="image"', sound), (b'name="serial"', b"A1")]
        body = (
            b"".join(b"--XX\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % part for part in parts)
            + b"--XX--\r\n"
        )
        cut = rng.choice((0, 0, rng.randrange(len(body))))
        return body[: len(body) - cut], {"content-type": "multipart/form-data; boundary=XX"}, ""
    return b'{"images": [' + b"[" * rng.randrange(3000), {"content-type": "application/json"}, ""


def client(port: int, seed: int, until: float, interval: float, files: list[bytes], counts: Any) -> None:
    """Send requests one after the other, `interval` seconds apart on average where the answers come so fast, a few cut off in
    the middle; count the answers by status. Every fourth asks for words."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    due = time.monotonic()
    while time.monotonic() < until:
        body, headers, query = requests(rng, files)
        path = ("/classify" if rng.random() < 0.25 else "/detect") + query
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            if rng.random() < 0.05:
                connection.putrequest("POST", path)
                for name, value in {**headers, "content-length": str(len(body) + 1)}.items():
                    connection.putheader(name, value)
                connection.endheaders(body[: len(body) // 2])
                found["left"] += 1
            else:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                answer.read()
                found[str(answer.status)] += 1
        except OSError as error:
            found[type(error).__name__] += 1
        finally:
            connection.close()
        if interval:  # what is behind its time does not have to be made up for
            due = max(due + rng.expovariate(1 / interval), time.monotonic())
            time.sleep(max(0.0, min(due, until) - time.monotonic()))
    counts.put(dict(found))


def main() -> None:
    """Run the soak and write what came back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument(
        "--pace", type=float, help="requests per second of all clients, at most; else as fast as they go"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    interval = options.clients / options.pace if options.pace else 0.0
    command = [sys.executable, "-m", "service", "serve", "--port", "0"]
    records = tempfile.TemporaryDirectory()
    environment = {**os.environ, "FLAWSCRIBE_RECORDS_DIR": records.name}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert "ready on" in line, line
        port = int(line.split()[3].rsplit(":", 1)[1])
        counts: Any = multiprocessing.Queue()
        files = part_files()
        until = time.monotonic() + 60 * options.minutes
        clients = [
            multiprocessing.Process(target=client, args=(port, seed, until, interval, files, counts))
            for seed in range(options.clients)
        ]
        for process in clients:
            process.start()
        memory = []
        while time.monotonic() < until:
            memory.append(resident_mb(server.pid))
            time.sleep(min(10.0, max(0.1, until - time.monotonic())))
        total: Counter[str] = Counter()
        for _ in clients:
            total.update(counts.get())
        for process in clients:
            process.join()
        server.terminate()
        code = server.wait(60)
    stored_mb = sum(path.stat().st_size for path in Path(records.name).rglob("*") if path.is_file()) / 2**20
    records.cleanup()
    lost = {kind: count for kind, count in total.items() if not kind.isdigit() and kind != "left"}
    bad = {status: count for status, count in total.items() if status.startswith("5") and status not in ("503", "504")}
    third = max(1, len(memory) // 3)
    result = {
        "machine": describe(),
        "minutes": options.minutes,
        "clients": options.clients,
        "pace_per_s": options.pace,
        "answers": dict(sorted(total.items())),
        "unexpected_5xx": bad,
        "connections_lost": lost,
        "resident_mb": {
            "after_start": memory[0],
            "first_third_max": max(memory[:third]),
            "last_third_max": max(memory[-third:]),
        },
        "records_mb": round(stored_mb, 1),
        "exit_code": code,
    }
    tell(result, options.json)


if __name__ == "__main__":
    main()
