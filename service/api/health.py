"""GET /healthz, /readyz, /metrics; none needs a key."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.api.schemas import Health
from service.api.state import ServiceState, state_of
from service.errors import NotReady

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    """200 as long as the event loop turns."""
    return Health(status="ok")


@router.get("/readyz", summary="Does it take requests?")
async def readyz(request: Request) -> Health:
    """200 once the model is loaded and warmed up; 503 before that, without the provider asked for, and while draining."""
    state_of(request).require_ready()
    return Health(status="ready")


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
def metrics(request: Request) -> Response:
    """All series in the Prometheus text format."""
    state = state_of(request)
    state.metrics.ready.set(_is_ready(state))
    state.metrics.llm_breaker_open.set(state.llm is not None and state.llm.breaker.state != "closed")
    return Response(state.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _is_ready(state: ServiceState) -> bool:
    try:
        state.require_ready()
    except NotReady:
        return False
    return True
