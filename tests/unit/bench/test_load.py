"""Load generators against a real HTTP server that answers as it is told, and the service's own measurement."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.bench.load import Target, arriving, closed
from service.bench.server import serving
from service.errors import NotReady
from tests.networks import write_bundle


class Counter(ThreadingHTTPServer):
    """Answers every other request 429; notes what it was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.seen: list[tuple[str, str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/detect?model=m"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Counter

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            self.server.seen.append((self.path, self.headers["content-type"], body))
            number = len(self.server.seen)
        answer = b"{}"
        self.send_response(429 if number % 2 == 0 else 200)
        self.send_header("content-length", str(len(answer)))
        self.send_header("server-timing", "decode;dur=1.50, network;dur=20.25")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Counter]:
    made = Counter()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_a_closed_loop_asks_again_and_again(server: Counter) -> None:
    samples = closed(Target(server.url, b"picture", "image/png"), clients=6, seconds=0.5)
    assert len(samples) == len(server.seen) >= 6
    assert {each.status for each in samples} == {200, 429}
    assert set(server.seen) == {("/detect?model=m", "image/png", b"picture")}
    assert all(each.stages == {"decode": 1.5, "network": 20.25} and each.seconds > 0 for each in samples)


def test_an_open_loop_sends_as_many_as_arrive_whatever_the_answers(server: Counter) -> None:
    samples = arriving(Target(server.url, b"x", "image/png"), rate=60, seconds=1, seed=3)
    again = arriving(Target(server.url, b"x", "image/png"), rate=60, seconds=1, seed=3)
    assert 30 < len(samples) == len(again) < 100
    assert sum(each.status == 429 for each in samples) == len(samples) // 2


def test_a_broken_connection_is_an_answer_of_its_own() -> None:
    samples = arriving(Target("http://127.0.0.1:9/detect", b"x", "image/png"), rate=20, seconds=0.5)
    assert {each.status for each in samples} == {0}


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no-such"), serving(tmp_path, model="no-such"):
        raise AssertionError("it started")


def test_the_service_is_measured_idle_loaded_and_overloaded(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    command = [sys.executable, "-m", "service", "bench", "service", "--bundle", str(folder), "--seconds", "0.3"]
    command += ["--rounds", "1", "--clients", "1", "--clients", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["form"] == "float32"
    assert [each["picture"] for each in result["idle"]] == [
        f"{size} {kind}"
        for size, coded in (("224x224", "PNG"), ("1280x720", "JPEG"))
        for kind in (coded, f"{coded}, store=none", "raw RGB")
    ]
    assert result["healthz_p50_ms"] > 0
    for each in result["idle"]:
        assert 0 < each["added_p50_ms"] <= each["p50_ms"]
    for each in result["idle"] + result["closed_loop"]:
        assert set(each["stages_p50_ms"]) == {"decode", "prepare", "queue", "network", "decide", "rest"}
        assert each["stages_p50_ms"]["rest"] > 0
    assert [each["clients"] for each in result["closed_loop"]] == [1, 4]
    assert all(set(each["statuses"]) == {"200"} for each in result["closed_loop"])
    assert [each["of_capacity"] for each in result["open_loop"]] == [0.5, 0.8, 1.0, 2.0, 4.0]
    assert all(set(each["statuses"]) <= {"200", "429"} for each in result["open_loop"])
    assert "arrivals at 4 x capacity" in done.stderr
