"""A real server on a real socket, in a thread of the test process, so that its network can be held up or broken."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from service.api.app import create_app
from service.api.connection import Connection
from service.api.state import ServiceState
from service.settings import Settings
from service.types import Wanted


@dataclass
class Service:
    """A running service: its address, its parts, and a client."""

    url: str
    state: ServiceState
    client: httpx.Client
    server: uvicorn.Server

    @property
    def session(self) -> Any:
        """The network session of the default model."""
        return self.state.store.load(self.state.default_model or "probe").session


@contextlib.contextmanager
def running(models_dir: Path, *, ready: bool = True, **settings: Any) -> Iterator[Service]:
    """Serve `models_dir` until the block ends; ready when it begins, or else known not to be. Records go with the block unless
    told where to stay."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"records_dir": Path(folder) / "records", "products_dir": Path(folder)} | settings
        with _running(Settings(models_dir=models_dir, **settings), ready) as service:
            yield service


@contextlib.contextmanager
def _running(settings: Settings, ready: bool) -> Iterator[Service]:
    app = create_app(settings)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=Connection, ws="none", log_level="error", access_log=False
    )
    server = uvicorn.Server(config)
    started = threading.Event()
    original = server.startup

    async def startup(sockets: Any = None) -> None:
        await original(sockets)
        started.set()

    server.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    assert started.wait(20)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        try:
            state = app.state.service
            if ready:
                wait_until(lambda: client.get("/readyz").status_code == 200)
            else:
                wait_until(lambda: state.lifecycle.failure is not None)
            yield Service(f"http://127.0.0.1:{port}", state, client, server)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def wait_until(condition: Any, seconds: float = 120) -> None:
    """Poll until `condition()` is true; fails the test when it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


class Gate:
    """Holds a session's runs until it is opened."""

    def __init__(self, session: Any) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.batches: list[int] = []
        self._run = session.run
        self._session = session
        session.run = self._held

    def _held(self, windows: np.ndarray, wanted: Wanted = "maps") -> Any:
        self.batches.append(len(windows))
        self.entered.release()
        assert self.opened.wait(30)
        return self._run(windows, wanted)

    def restore(self) -> None:
        """Let the session run freely again."""
        self.opened.set()
        self._session.run = self._run
