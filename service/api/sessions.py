"""Browser sessions: an API key is traded for a cookie, since a page's pictures and event streams can send no header."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from service.api.access import ApiKey, KeyRing
from service.errors import Forbidden, Unauthorized

COOKIE = "flawscribe_session"
LIFE_S = 12 * 3600  # a shift, and a margin
CSRF_HEADER = "x-csrf-token"
_MOST = 10_000
_SAFE = {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that showed a key. `csrf`: goes with every unsafe request; `ends`: by the clock of Sessions."""

    key_id: str
    csrf: str
    ends: float


class Sessions:
    """The sessions of a service, in memory: its restart ends them, as does the end of their key. Tokens are held hashed."""

    def __init__(self, keys: KeyRing, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._sessions: dict[str, Session] = {}  # by the sha256 of the cookie's token, oldest first

    def begin(self, secret: str) -> tuple[str, ApiKey]:
        """The cookie's token for the bearer of a key. Raises Unauthorized when it is no key."""
        key = self._keys.named(secret)
        if key is None:
            raise Unauthorized("that is no key of this service; `flawscribe key list` shows which there are")
        now = self._clock()
        self._sessions = {name: each for name, each in self._sessions.items() if each.ends > now}
        while len(self._sessions) >= _MOST:
            del self._sessions[next(iter(self._sessions))]
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = Session(key.id, secrets.token_urlsafe(24), now + LIFE_S)
        return token, key

    def end(self, request: Request) -> None:
        """Forget the request's session, where it has one."""
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)

    def of(self, request: Request) -> tuple[Session, ApiKey] | None:
        """The request's session and its key; None without a cookie, after its time, or when the key was revoked."""
        session = self._sessions.get(_digest(request.cookies.get(COOKIE, "")))
        if session is None or session.ends <= self._clock():
            return None
        key = next((each for each in self._keys.keys if each.id == session.key_id), None)
        return None if key is None else (session, key)

    def key_of(self, request: Request) -> ApiKey | None:
        """The key of the request's session, None without one. Raises Forbidden for an unsafe method without its CSRF token."""
        found = self.of(request)
        if found is None:
            return None
        session, key = found
        given = request.headers.get(CSRF_HEADER, "")
        if request.method not in _SAFE and not hmac.compare_digest(given.encode(), session.csrf.encode()):
            raise Forbidden(f"a request of a browser session needs the header {CSRF_HEADER} with the session's token")
        return key


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
