"""The programs of examples/ that docs/integrate.md offers, against a real service: what they say, and how they end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.serving import Service, running
from tests.documents import ROOT
from tests.networks import grey_picture, png, write_bundle

EXAMPLES = ROOT / "examples"
# each language's command, and what it needs; {built}: the compiled InspectPart.cs
CLIENTS = {
    "shell": (["sh", f"{EXAMPLES}/inspect_part.sh"], "curl", "curl"),
    "python": ([sys.executable, f"{EXAMPLES}/inspect_part.py"], "python", ""),
    "node": (["node", f"{EXAMPLES}/inspect_part.mjs"], "node", "nodejs"),
    "csharp": (["mono", "{built}"], "mcs", "mono-mcs and the libraries that .ci/run names"),
}
LOT, STATION = "L3", "加工"  # not ASCII, as a header's value must be


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Dark is a flaw."""
    models = tmp_path_factory.mktemp("models")
    write_bundle(models, "probe", 1, working_size=448, global_map=True)
    with running(models, deadline_ms=120_000) as running_service:
        yield running_service


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """InspectPart.cs as the oldest C# that it promises to be; an empty path without a compiler."""
    if shutil.which("mcs") is None or shutil.which("mono") is None:
        return Path()
    program = tmp_path_factory.mktemp("csharp") / "InspectPart.exe"
    libraries = "-r:System.Net.Http,System.Runtime.Serialization,System.Xml,System.Xml.Linq"
    command = ["mcs", "-langversion:7", "-warnaserror", libraries, f"-out:{program}", f"{EXAMPLES}/InspectPart.cs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return program


@dataclass(frozen=True)
class Client:
    """One language's program, and the part that it sends."""

    command: list[str]
    serial: str

    def run(self, url: str, picture: Path) -> subprocess.CompletedProcess[str]:
        """Send a picture as a line would."""
        environment = os.environ | {"INSPECT_URL": url, "LC_ALL": "C.UTF-8"}
        environment.pop("INSPECT_KEY", None)
        command = [*self.command, str(picture), self.serial, LOT, STATION]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, built: Path) -> Client:
    command, program, package = CLIENTS[request.param]
    if package and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian: {package})")
    return Client(
        [part.format(built=built) for part in command], f"@Teil ü;{request.param}"
    )  # some of it means something to curl


def part(folder: Path, shade: int | None) -> Path:
    picture = grey_picture(300, 400)
    if shade is not None:
        picture[60:100, 60:100] = shade
    path = folder / "part;1.png"
    path.write_bytes(png(picture))
    return path


@pytest.mark.parametrize(("shade", "verdict", "code"), [(None, "ok", 0), (30, "not_ok", 10)])
def test_the_exit_code_is_the_verdict(
    client: Client, service: Service, tmp_path: Path, shade: int | None, verdict: str, code: int
) -> None:
    picture = part(tmp_path, shade)
    for done in (client.run(service.url, picture), client.run(service.url, picture)):
        assert (done.returncode, done.stderr) == (code, "")
        assert done.stdout.startswith(f"{client.serial} {verdict}")
    wanted = {"serial": client.serial, "verdict": verdict}
    latest = service.client.get("/inspections", params=wanted).json()["inspections"]
    assert [(each["lot"], each["station"]) for each in latest] == [(LOT, STATION)]  # one shot, one record


def test_a_file_that_is_no_picture_is_not_tried_again(client: Client, service: Service, tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(b"nonsense")
    begun = time.monotonic()
    done = client.run(service.url, path)
    assert done.returncode not in (0, 10, 11)
    assert "not a picture" in done.stderr
    assert "trying again" not in done.stderr
    assert time.monotonic() - begun < 25  # less than their patience


def test_a_file_that_is_not_there_is_said(client: Client, service: Service, tmp_path: Path) -> None:
    done = client.run(service.url, tmp_path / "absent.png")
    assert done.returncode not in (0, 10, 11)
    assert "absent.png" in done.stderr


BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


@pytest.mark.parametrize("first", [BUSY, b""], ids=["busy", "breaks"])
def test_a_service_that_is_busy_or_breaks_off_is_asked_again(client: Client, tmp_path: Path, first: bytes) -> None:
    """Once 429 with a Retry-After, or no answer at all, then the verdict; both times by the same key."""
    verdict = b'{"results":[{"id":"abc","verdict":"review","anomaly_score":0.4,"threshold":0.5}]}'
    answers = [
        first,
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(verdict), verdict),
    ]
    keys = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection, connection.makefile("rb") as stream:
                    head = {}
                    stream.readline()
                    while line := stream.readline().strip():
                        name, _, value = line.decode().partition(":")
                        head[name.lower()] = value.strip()
                    if "expect" in head:
                        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    stream.read(int(head["content-length"]))
                    keys.append(head["idempotency-key"])
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        done = client.run(f"http://127.0.0.1:{server.getsockname()[1]}", part(tmp_path, 30))
        thread.join(10)
    assert (done.returncode, len(keys), len(set(keys))) == (11, 2, 1), done.stderr
