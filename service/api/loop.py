"""How late the event loop is: a timer that should ring at once, and when it did. Work that holds up the loop shows here."""

from __future__ import annotations

import asyncio
import time

from service.api.state import ServiceState

_EVERY_S = 0.05


async def watch_lag(state: ServiceState) -> None:
    """Observe the loop's lag until cancelled."""
    while True:
        due = time.perf_counter() + _EVERY_S
        await asyncio.sleep(_EVERY_S)
        state.metrics.loop_lag.observe(max(0.0, time.perf_counter() - due))
