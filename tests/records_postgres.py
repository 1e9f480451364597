"""A PostgreSQL server of our own for tests: in a temporary folder, on a free port, as a user who is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NoPostgres(Exception):
    """Why no server can be started here."""


def find_binaries() -> Path:
    """The folder of initdb and postgres, on the path or where Debian puts them. Raises NoPostgres."""
    places = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "initdb").is_file() and (place / "postgres").is_file():
            return place
    raise NoPostgres("no PostgreSQL server is installed (Debian: postgresql)")


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a running server's database. Raises NoPostgres."""
    binaries = find_binaries()
    prefix = _other_user() if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="flawscribe-postgres-"))
    try:
        if prefix:
            entry = pwd.getpwnam("postgres")
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        data, port = folder / "data", _free_port()
        quick = ["--username=flawscribe", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        _run([*prefix, str(binaries / "initdb"), "--pgdata", str(data), *quick], folder)
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        start = ["start", "--wait", "--pgdata", str(data), "--log", str(folder / "log"), "--options", options]
        _run([*prefix, str(binaries / "pg_ctl"), *start], folder)
        try:
            yield f"postgresql+psycopg://flawscribe@127.0.0.1:{port}/postgres"
        finally:
            _run([*prefix, str(binaries / "pg_ctl"), "stop", "--mode=immediate", "--pgdata", str(data)], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _other_user() -> list[str]:
    """The words before a command that run it as `postgres`: the server refuses to be root."""
    try:
        pwd.getpwnam("postgres")
    except KeyError as error:
        raise NoPostgres("PostgreSQL does not run as root, and there is no user postgres") from error
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise NoPostgres("PostgreSQL does not run as root, and setpriv (util-linux) is missing")
    return [setpriv, "--reuid=postgres", "--regid=postgres", "--init-groups"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise NoPostgres(f"{Path(command[-1]).name}: {' '.join(command)}: {done.stderr or done.stdout}")
