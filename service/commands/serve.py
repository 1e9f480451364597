"""flawscribe serve"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import uvicorn

from service.api.app import create_app
from service.api.connection import Connection
from service.api.state import ServiceState
from service.engine.session import share_memory_pools
from service.errors import SettingsError
from service.settings import load_settings

_LOOK_S = 0.05


class DrainingServer(uvicorn.Server):
    """On the first SIGTERM or SIGINT: not ready at once, running requests finish, then it ends. On the second: ends now."""

    def __init__(self, config: uvicorn.Config, state: ServiceState) -> None:
        super().__init__(config)
        self._state = state
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the socket, then say where, once the model is ready."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._announcement = asyncio.create_task(self._announce())

    async def _announce(self) -> None:
        lifecycle = self._state.lifecycle
        while not (lifecycle.ready or lifecycle.failure or self.should_exit):
            await asyncio.sleep(_LOOK_S)
        for server in self.servers:
            for bound in server.sockets:
                host, port = bound.getsockname()[:2]
                url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
                word = "ready" if lifecycle.ready else f"listening, not ready: {lifecycle.failure}"
                typer.echo(f"flawscribe {word} on {url} (API: {url}/docs)")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or give up waiting."""
        if self._state.lifecycle.draining:
            os._exit(128 + sig)  # as a kill would: what was answered is on disk
        if self._loop is None:
            super().handle_exit(sig, frame)
            return
        self._state.lifecycle.draining = True
        self._loop.call_soon_threadsafe(self._start_drain)

    def _start_drain(self) -> None:
        self._state.events.close()
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        deadline = asyncio.get_running_loop().time() + self._state.settings.drain_s
        while self._state.lifecycle.in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_LOOK_S)
        left = deadline - asyncio.get_running_loop().time()  # for what clients have not read yet
        self.config.timeout_graceful_shutdown = max(_LOOK_S, left)  # type: ignore[assignment] # asyncio takes fractions
        self.should_exit = True  # an asked-for end is exit code 0, so the signal is not raised again


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (default: 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one (default: 8000).")] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Folder of bundles (default: models).")] = None,
    model: Annotated[str | None, typer.Option(help="Model that answers when a request names none.")] = None,
    insecure: Annotated[bool | None, typer.Option("--insecure", help="Listen beyond loopback without keys.")] = None,
) -> None:
    """Serve the models over HTTP.

    Every setting is also an environment variable FLAWSCRIBE_*; the README lists them. Examples:

        flawscribe serve --model bracket

        FLAWSCRIBE_KEYS_FILE=keys.json flawscribe serve --host 0.0.0.0 --port 9000
    """
    settings = load_settings(host=host, port=port, models_dir=models_dir, model=model, insecure=insecure)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    share_memory_pools()
    listener = listen(settings.host, settings.port)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Connection,
        ws="none",
        log_level=settings.log_level,
        access_log=False,
        timeout_keep_alive=70,
        timeout_graceful_shutdown=max(1, int(settings.drain_s)),
        server_header=False,
    )
    DrainingServer(config, app.state.service).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before anything is loaded. Raises SettingsError when the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"cannot listen on {host} port {port}: another process has that port; take another one with --port"
            ) from error
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror}") from error


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)
