"""Who looks at the console's pages."""

from __future__ import annotations

from fastapi import Request

from service.api.access import SCOPES
from service.api.state import state_of
from service.console.shell import Viewer
from service.errors import Unauthorized


def viewer_of(request: Request) -> Viewer | None:
    """Who asks for a page: everybody may see everything where no keys are needed; None without a valid key."""
    state = state_of(request)
    try:
        key = state.keys.find(request.headers)
    except Unauthorized:
        return None
    records = state.settings.store != "none"
    if key is None:
        return Viewer(frozenset(SCOPES), records=records)
    return Viewer(frozenset(key.scopes), key.id, keys=True, records=records)
