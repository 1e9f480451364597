"""API keys: stored hashed in a JSON file, each with scopes. Without keys the service answers loopback only."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from service.errors import Forbidden, SettingsError

log = logging.getLogger("flawscribe.access")
Scope = Literal["detect", "review", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_PREFIX = "fls_"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored: the sha256 of its 256 random bits (no salt needed at that entropy), never the key itself."""

    id: str
    sha256: str
    scopes: tuple[Scope, ...]
    note: str
    created_at: str


class KeyRing:
    """The keys of a service. Without a file no key is asked for; with one, its changes count from the next request on.

    Raises SettingsError when the file is missing or damaged at the start; later on the last good keys stay, so that a slip
    of the editor locks nobody out, and an emptied file lets nobody in.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.required = file is not None
        self._stamp, self._keys = self._stamped(), _read(file) if file is not None else ()

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The keys as the file has them now."""
        stamp = self._stamped()
        if self._file is not None and stamp != self._stamp:
            self._stamp = stamp
            try:
                self._keys = _read(self._file)
                log.info("%s has changed: %d keys", self._file, len(self._keys))
            except SettingsError as error:
                log.error("%s; the keys read before stay valid", error.detail)
        return self._keys

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            found = self._file.stat() if self._file is not None else None
        except OSError:
            return None
        return found and (found.st_mtime_ns, found.st_size, found.st_ino)

    def named(self, given: str) -> ApiKey | None:
        """The key that `given` is; None when it is none of the service's."""
        digest = hashlib.sha256(given.encode()).hexdigest()
        found = None
        for key in self.keys:  # all of them, so that time tells nothing
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found


def require_scope(key: ApiKey, *scopes: Scope) -> None:
    """Raises Forbidden when the key has none of `scopes`; `admin` covers all."""
    if not {*scopes, "admin"} & {*key.scopes}:
        raise Forbidden(f"key {key.id} has the scopes {', '.join(key.scopes)}; this needs {' or '.join(scopes)}")


def key_in(headers: Mapping[str, str]) -> str | None:
    """The key that a request's headers carry, right or wrong; None where they carry none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    # any other scheme is a proxy's own: browsers add it by themselves, so it shows nobody's will
    return headers["x-api-key"].strip() if "x-api-key" in headers else None


def load_keys(file: Path | None) -> KeyRing:
    """The key ring of a keys file; an empty one without a file. Raises SettingsError for a missing or damaged file."""
    ring = KeyRing(file)
    if ring.required and not ring.keys:
        raise SettingsError(f"{file} holds no key; make one: flawscribe key create --keys-file {file} --scope detect")
    return ring


def create_key(file: Path, scopes: tuple[Scope, ...], note: str = "") -> tuple[ApiKey, str]:
    """Add a key to `file` (made when missing, readable by its owner only); returns it and the secret, shown only now."""
    secret = _PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=secrets.token_hex(4),
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        scopes=scopes,
        note=note,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _write(file, (*(_read(file) if file.exists() else ()), key))
    return key, secret


def revoke_key(file: Path, key_id: str) -> None:
    """Remove a key. Raises SettingsError when there is none of that id."""
    keys = _read(file)
    rest = tuple(key for key in keys if key.id != key_id)
    if len(rest) == len(keys):
        raise SettingsError(f"{file} has no key {key_id}")
    _write(file, rest)


def list_keys(file: Path) -> tuple[ApiKey, ...]:
    """The keys of a file."""
    return _read(file)


def _read(file: Path) -> tuple[ApiKey, ...]:
    try:
        stored = json.loads(file.read_text())["keys"]
        keys = tuple(ApiKey(**{**entry, "scopes": tuple(entry["scopes"])}) for entry in stored)
    except OSError as error:
        raise SettingsError(f"keys file {file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"keys file {file} is damaged: {error}") from error
    if unknown := {scope for key in keys for scope in key.scopes} - set(SCOPES):
        raise SettingsError(f"keys file {file} names unknown scopes: {', '.join(sorted(unknown))}")
    return keys


def _write(file: Path, keys: tuple[ApiKey, ...]) -> None:
    """In place of what was there, for whom it was: a service that runs as somebody else must be able to read it on."""
    place = Path(os.path.realpath(file))  # where a link leads
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            json.dump({"keys": [asdict(key) for key in keys]}, stream, indent=1)
            if place.exists() and os.name == "posix":
                before = place.stat()
                os.fchown(stream.fileno(), before.st_uid, before.st_gid)
                os.fchmod(stream.fileno(), stat.S_IMODE(before.st_mode))
        temporary.replace(place)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise SettingsError(f"keys file {file} cannot be written: {error.strerror}") from error
