"""A scripted OpenAI-compatible server on a loopback socket: it records what was sent and misbehaves as told.

    with LlmServer() as server:
        server.script(status(429, retry_after=3), completion(answer_json(regions=1)))
        ... base_url=server.base_url ...
        assert server.requests[0].body["model"] == "vision"

The last reply of a script holds for all later requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Sent:
    """A request as it arrived. `body` is its JSON."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        """Every text of every message, system first."""
        parts = [part for message in self.body["messages"] for part in _parts(message)]
        return [part["text"] for part in parts if part["type"] == "text"]

    @property
    def pictures(self) -> list[str]:
        """The data URIs, in order."""
        parts = [part for message in self.body["messages"] for part in _parts(message)]
        return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


@dataclass
class Exchange:
    """One connection: the request, and the socket to answer on. `closing` is set when the server stops."""

    request: Sent
    writer: asyncio.StreamWriter
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with a TCP reset instead of a farewell."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Reply = Callable[[Exchange], Awaitable[None]]


class LlmServer:
    """Runs in a thread of its own; `with` starts and stops it."""

    def __init__(self) -> None:
        self.requests: list[Sent] = []
        self._script: list[Reply] = [completion(answer_json(1))]
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def script(self, *replies: Reply) -> None:
        """From now on answer with these, the last one for ever; what was recorded is forgotten."""
        self._script = list(replies)
        self.requests.clear()

    def __enter__(self) -> LlmServer:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        self._closing.set()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # lets aborted transports go

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            request = await _read(reader)
            self.requests.append(request)
            reply = self._script.pop(0) if len(self._script) > 1 else self._script[0]
            await reply(Exchange(request, writer, self._closing))
        self._tasks.discard(task)
        writer.transport.abort() if self._closing.is_set() else writer.close()


def respond(status_code: int, body: bytes, content_type: str = "application/json", **headers: str) -> bytes:
    """A whole HTTP response; header names with underscores for dashes."""
    lines = [f"HTTP/1.1 {status_code} Scripted", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def raw(data: bytes) -> Reply:
    """These bytes and the end of the connection."""
    return lambda exchange: exchange.send(data)


def status(code: int, body: str | None = None, content_type: str = "application/json", **headers: str) -> Reply:
    """An HTTP status, by default with an error object as OpenAI sends it."""
    text = body if body is not None else error_json(f"scripted {code}")
    return raw(respond(code, text.encode(), content_type, **headers))


def completion(
    content: Any, *, finish_reason: str = "stop", usage: dict[str, int] | None = None, **message: Any
) -> Reply:
    """A chat completion with this content."""
    body = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 1764072000,
        "model": "vision-2026",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, **message},
            }
        ],
        "usage": usage or {"prompt_tokens": 1200, "completion_tokens": 80, "total_tokens": 1280},
    }
    return raw(respond(200, json.dumps(body).encode()))


def forms(*accepted: str, otherwise: Reply, reply: Reply) -> Reply:
    """`reply` when the answer is asked in one of these forms (json_schema, json_object, text), else `otherwise`."""

    async def choose(exchange: Exchange) -> None:
        asked = exchange.request.body.get("response_format", {"type": "text"})["type"]
        await (reply if asked in accepted else otherwise)(exchange)

    return choose


async def silent(exchange: Exchange) -> None:
    """Never answers."""
    await exchange.closing.wait()


async def reset(exchange: Exchange) -> None:
    """Resets the connection without an answer."""
    exchange.reset()


async def reset_midway(exchange: Exchange) -> None:
    """Resets the connection in the middle of a body."""
    await exchange.send(respond(200, b'{"choices": [' + b" " * 1000)[:-500])
    exchange.reset()


async def drip(exchange: Exchange) -> None:
    """Sends a body a byte at a time, never to its end."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
    while not exchange.closing.is_set():
        await exchange.send(b" ")
        await asyncio.sleep(0.02)


async def huge(exchange: Exchange) -> None:
    """Sends without end."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not exchange.closing.is_set():
        await exchange.send(b" " * 65536)


def entry(**changed: Any) -> dict[str, Any]:
    """A good entry of an answer, with these fields changed."""
    good = {
        "label": "thread",
        "description": "Black thread lies across the upper left.",
        "severity": "minor",
        "causes": [{"text": "Loose end from the loom", "case_ids": []}],
        "action": "Brush the fabric and inspect again.",
        "confidence": 0.8,
        "is_new_type": False,
    }
    return good | changed


def answer_json(regions: int, **changed: Any) -> str:
    """A good answer for so many regions, each entry with these fields changed."""
    entries = [entry(**changed) | {"region": number} for number in range(1, regions + 1)]
    return json.dumps({"picture": entry(**changed), "regions": entries})


def error_json(message: str, code: str | None = None, param: str | None = None) -> str:
    """An error object as OpenAI sends it."""
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": code, "param": param}})


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


async def _read(reader: asyncio.StreamReader) -> Sent:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Sent(method, path, headers, json.loads(body or b"{}"))
