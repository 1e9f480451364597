"""Pictures as they came, in a folder by their sha256: `ab/cd/abcd….bin`. The same picture is kept once."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.errors import NoSuchRecord, RecordsFailure

GRACE_S = 3600.0  # a picture this young may belong to a record that is not committed yet
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored picture: its size in bytes, and when it was last received (seconds since 1970)."""

    sha256: str
    size: int
    received: float


class Pictures:
    """The folder of pictures. Any thread, and several processes, may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, sha256: str, data: bytes) -> None:
        """Keep a picture; durable when this returns. To be called before its record is committed.

        Raises RecordsFailure when the folder does not take it.
        """
        path = self._path(sha256)
        try:
            with suppress(FileNotFoundError):
                os.utime(path)  # young again, so that no removal under way takes it
                _sync_folder(path.parent)  # another writer may just have renamed it into place
                return
            self._make_folders(path.parent)
            fresh = path.with_name(f".{uuid.uuid4().hex}")
            try:
                _write(fresh, data)
                fresh.rename(path)
            finally:
                fresh.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as error:
            raise RecordsFailure(f"the picture could not be stored: {error.strerror or error}") from error

    def get(self, sha256: str) -> bytes:
        """The picture's bytes. Raises NoSuchRecord, or RecordsFailure when the folder cannot be read."""
        try:
            return self._path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise NoSuchRecord(f"there is no picture {sha256}") from error
        except OSError as error:
            raise RecordsFailure(f"the picture could not be read: {error.strerror or error}") from error

    def all(self) -> Iterator[Kept]:
        """Every stored picture, in no order. Leftovers of a write that was cut short are removed on the way."""
        for path in self._folder.glob("??/??/*"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                if path.suffix == ".bin" and len(path.stem) == 64:
                    yield Kept(path.stem, facts.st_size, facts.st_mtime)
                elif path.name.startswith(".") and facts.st_mtime < time.time() - GRACE_S:
                    path.unlink()

    def remove(self, sha256: str, grace_s: float = GRACE_S) -> bool:
        """Remove a picture unless it was received within `grace_s`; whether it is gone.

        It is first renamed, then its age is read: a `put` meanwhile either made it young, and it goes back, or found
        nothing and wrote it anew.
        """
        path = self._path(sha256)
        doomed = path.with_name(f".{uuid.uuid4().hex}")
        try:
            if path.stat().st_mtime > time.time() - grace_s:
                return False
            path.rename(doomed)
        except FileNotFoundError:
            return False
        if doomed.stat().st_mtime > time.time() - grace_s:
            doomed.rename(path)
            return False
        doomed.unlink()
        return True

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not _HEX.issuperset(sha256):
            raise NoSuchRecord(f"{sha256!r} is not the sha256 of a picture")
        return self._folder / sha256[:2] / sha256[2:4] / f"{sha256}.bin"

    def _make_folders(self, folder: Path) -> None:
        """The two levels, each entered in its parent durably."""
        if folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for made in (folder, folder.parent, self._folder):
            _sync_folder(made.parent)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there, and its entries are journalled
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
