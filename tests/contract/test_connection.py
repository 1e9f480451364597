"""What peers do on a socket: old and strange clients are answered, hostile ones hold and mislead nobody."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from service.api.connection import Connection
from tests.contract.serving import Service, running, wait_until
from tests.networks import grey_picture, png, write_bundle

GOOD = png(grey_picture())
H2C = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAAB",
)  # as Java's client has it
CHUNKED = b"%x\r\n%b\r\n0\r\n" % (len(GOOD), GOOD)


def request(
    *headers: str, body: bytes = GOOD, line: str = "POST /detect HTTP/1.1", host: str = "Host: 127.0.0.1"
) -> bytes:
    length = (
        () if any(header.startswith("Transfer-Encoding") for header in headers) else (f"Content-Length: {len(body)}",)
    )
    lines = (line, *((host,) if host else ()), "Content-Type: image/png", *length, *headers)
    return "\r\n".join((*lines, "", "")).encode() + body


@pytest.fixture
def peer(service: Service) -> Iterator[socket.socket]:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        yield connection


def answered(peer: socket.socket, sent: bytes, method: str = "POST") -> tuple[HTTPResponse, Any]:
    """The answer to what was sent: with its headers, and its body as JSON."""
    peer.sendall(sent)
    answer = HTTPResponse(peer, method=method)
    answer.begin()
    body = answer.read()
    return answer, json.loads(body) if body else None


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_offers_another_protocol_is_answered_in_this_one(peer: socket.socket, chunked: bool) -> None:
    sent = request("Transfer-Encoding: chunked", *H2C, body=CHUNKED + b"\r\n") if chunked else request(*H2C)
    for _ in range(2):  # the connection stays good for the next request
        answer, body = answered(peer, sent)
        assert (answer.status, body["results"][0]["verdict"]) == (200, "ok")
    answer, body = answered(peer, request(*H2C, body=b"", line="GET /models HTTP/1.1"))
    assert (answer.status, body["models"][0]["name"]) == (200, "probe")


def test_the_body_of_such_a_client_may_come_in_pieces(peer: socket.socket) -> None:
    sent = request(*H2C)
    head = sent.index(b"\r\n\r\n") + 4
    for piece in (sent[: head - 9], sent[head - 9 : head], sent[head : head + 50]):
        peer.sendall(piece)
        assert answered_elsewhere(peer)  # the service has read the piece before the next one comes
    assert answered(peer, sent[head + 50 :])[0].status == 200


def answered_elsewhere(peer: socket.socket) -> bool:
    with socket.create_connection(peer.getpeername(), timeout=30) as other:
        return answered(other, request(body=b"", line="GET /healthz HTTP/1.1"))[0].status == 200


def test_blanks_around_a_header_are_no_part_of_it(peer: socket.socket) -> None:
    blank = ("X-Meta-Serial: \t S9 \t", "X-Deadline-Ms: 5000 ", "X-Request-Id: r1 ", "Idempotency-Key: OWS ")
    answer, body = answered(peer, request(*blank))
    assert (answer.status, body["request_id"], body["results"][0]["metadata"]) == (200, "r1", {"serial": "S9"})
    answer, _ = answered(peer, request("X-Meta-Serial: S9", "Idempotency-Key: OWS"))
    assert (answer.status, answer.headers["idempotent-replayed"]) == (200, "true")


@pytest.mark.parametrize(
    "twice", ["X-Deadline-Ms: 5000", "Idempotency-Key: k", "X-Request-Id: r", "Content-Type: image/png", "X-API-Key: k"]
)
def test_a_header_that_can_be_there_once_is_not_there_twice(peer: socket.socket, twice: str) -> None:
    answer, problem = answered(peer, request(twice, twice))
    assert (answer.status, "twice" in problem["detail"]) == (400, True)


def test_requests_sent_ahead_are_answered_in_turn(peer: socket.socket) -> None:
    peer.sendall(request() + request(*H2C) + request("X-Request-Id: last"))
    ids = [answered(peer, b"")[1]["request_id"] for _ in range(3)]
    assert ids[2] == "last"


def test_an_old_client_needs_no_host(peer: socket.socket) -> None:
    answer, body = answered(peer, request(line="POST /detect HTTP/1.0", host=""))
    assert (answer.status, body["results"][0]["verdict"]) == (200, "ok")


def test_trailers_are_no_headers(peer: socket.socket) -> None:
    trailers = b"X-Request-Id: forged\r\nX-Meta-Serial: forged\r\nX-API-Key: forged\r\n\r\n"
    answer, body = answered(peer, request("Transfer-Encoding: chunked", body=CHUNKED + trailers))
    assert (answer.status, body["results"][0]["metadata"]) == (200, {})
    assert body["request_id"] != "forged"


@pytest.mark.parametrize(
    "sent",
    [
        request("Transfer-Encoding: chunked", "Content-Length: 5", body=CHUNKED + b"\r\n"),
        request("Content-Length: 5"),
        request("Transfer-Encoding: chunked", body=b"zz\r\n"),
        request("X-Meta-A: one", " folded"),
        request("X-Meta-A : one"),
        request("X-Meta-A: nul\x00"),
        request(host=""),
        request("Host: evil.example"),
        request(line="CONNECT example.com:443 HTTP/1.1"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_as_a_problem(peer: socket.socket, sent: bytes) -> None:
    answer, problem = answered(peer, sent)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
    assert problem["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"a" * 400_000,
        b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 400_000,
        b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
        request("Transfer-Encoding: chunked", body=CHUNKED + b"X: " + b"a" * 400_000),
    ],
)
def test_endless_headers_end(peer: socket.socket, endless: bytes) -> None:
    received = b""
    try:
        peer.sendall(endless)
        while piece := peer.recv(65536):
            received += piece
    except ConnectionError:  # closed while we were still sending
        pass
    assert b" 200 " not in received


def test_a_head_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    class Impatient(Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.timeout_keep_alive = 0  # a whole second at least, otherwise

    write_bundle(tmp_path, "probe", 1)
    with running(tmp_path) as service:
        service.server.config.http_protocol_class = Impatient
        host, port = service.url.removeprefix("http://").split(":")
        for begun in (b"", b"\r\n", b"GET /healthz HTTP/1.1\r\nHost:"):
            with socket.create_connection((host, int(port)), timeout=30) as peer:
                peer.sendall(begun)
                assert peer.recv(1000) == b""


def test_head_answers_as_get_without_the_body(service: Service, peer: socket.socket) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/models", "/docs"):
        whole, short = service.client.get(path), service.client.head(path)
        assert (short.status_code, short.content) == (200, b"")
        assert short.headers["content-type"] == whole.headers["content-type"]
    assert service.client.head("/nowhere").status_code == 404
    assert service.client.head("/detect").headers["allow"] == "POST"
    assert service.client.delete("/models").headers["allow"] == "GET, HEAD"
    events, _ = answered(peer, request(line="HEAD /events HTTP/1.1", body=b""), method="HEAD")  # it would never end
    assert events.status == 200
    assert answered(peer, request())[0].status == 200
    wait_until(lambda: "flawscribe_event_streams 0.0" in service.client.get("/metrics").text)


def test_no_operation_ignores_a_query_parameter_that_it_does_not_know(service: Service) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    asked = 0
    for path, operations in paths.items():
        if path not in ("/healthz", "/readyz", "/metrics"):  # probes and scrapers are answered whatever they ask
            for method in operations:
                answer = service.client.request(method, re.sub(r"{[a-z_:]+}", "probe", path) + "?unmeant=1")
                assert (answer.status_code, "unmeant" in answer.text) == (422, True), (method, path)
                asked += 1
    assert asked > 30


def test_a_path_has_one_spelling_and_nobody_is_sent_elsewhere(service: Service) -> None:
    for path in ("/detect/", "/models/", "/models/probe/", "/DETECT"):
        answer = service.client.post(path, content=GOOD, headers={"content-type": "image/png"})
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert "/docs" in answer.json()["detail"]


def test_slow_heads_keep_nobody_else_waiting(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port)), timeout=30) for _ in range(50)]
    try:
        for peer in slow:
            peer.sendall(b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow:")
        assert service.client.get("/readyz").status_code == 200
    finally:
        for peer in slow:
            peer.close()
