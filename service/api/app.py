"""create_app(settings): everything the service owns is made here, and nowhere at import."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI

from service import __version__
from service.api import detect, docs, health, models, problems
from service.api.access import load_keys
from service.api.frame import Frame
from service.api.schemas import Problem
from service.api.state import ServiceState
from service.bundle.manifest import Form, FormName
from service.bundle.store import EngineOptions, Store, open_provider
from service.errors import FlawscribeError
from service.inspector import Inspector
from service.metrics import Metrics
from service.settings import Settings, load_settings

log = logging.getLogger("flawscribe.app")
_DEMO = "polka-dot"
_CUDA_BUDGET_MS = 2.0
_CPU_MARGIN = 1.25  # a CPU's budget over the network time measured when the bundle was trained
_UNKNOWN_CPU_MS = 250.0


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI app. It loads and warms up the default model in the background; /readyz tells when that is done.

    Raises SettingsError, or NoSuchModel when the configured model is not there.
    """
    settings = settings or load_settings()
    store = Store(settings.models_dir, EngineOptions(settings.precision, settings.provider, settings.threads))
    default_model = _default_model(settings, store)
    budget_s = _expected_budget_ms(settings, store, default_model) / 1000
    metrics = Metrics(budget_s)
    inspector = Inspector(
        metrics,
        queue_windows=settings.queue_windows,
        max_pixels=int(settings.max_megapixels * 1_000_000),
        decode_threads=settings.decode_threads,
        budget_s=budget_s,
    )
    state = ServiceState(settings, load_keys(settings.keys_file), store, metrics, inspector, default_model)
    app = FastAPI(
        title="Flawscribe",
        version=__version__,
        description="Visual inspection: is a part anomalous, and where?",
        lifespan=lambda _: _life(state),
        docs_url=None,
        redoc_url=None,
        responses={
            code: {"model": Problem, "description": text, "content": {problems.MEDIA_TYPE: {}}}
            for code, text in (("4XX", "The request cannot be answered as it is"), ("5XX", "Not ready, or failed"))
        },
    )
    app.state.service = state
    problems.install(app)
    for part in (detect, models, health, docs):
        app.include_router(part.router)
    app.add_middleware(Frame, state=state)
    return app


@contextlib.asynccontextmanager
async def _life(state: ServiceState) -> AsyncIterator[None]:
    loading = asyncio.create_task(_load_default(state))
    try:
        yield
    finally:
        state.lifecycle.draining = True
        loading.cancel()
        await asyncio.to_thread(state.inspector.close)


async def _load_default(state: ServiceState) -> None:
    """Load and warm up what answers when no model is named, then say ready."""
    try:
        if state.default_model is not None:
            bundle = await asyncio.to_thread(state.store.load, state.default_model)
            state.describe(bundle)
            # the form that answers may not be the expected one: a form that misses its golden pictures is not used
            budget_s = _budget_ms(state.settings, bundle.form, bundle.session.provider) / 1000
            state.inspector.budget_s = budget_s
            state.metrics.budget_seconds.set(budget_s)
        elif not state.store.names():
            state.lifecycle.failure = f"no model in {state.settings.models_dir}; train one: flawscribe train --help"
            log.error(state.lifecycle.failure)
            return
        state.lifecycle.ready = True
    except FlawscribeError as error:
        state.lifecycle.failure = error.detail
        log.error("not ready: %s", error.detail)


def _default_model(settings: Settings, store: Store) -> str | None:
    """The configured model, else the only one, else the bundled demo, else none."""
    if settings.model is not None:
        store.versions(settings.model)  # raises NoSuchModel: a wrong name in the configuration shows at start
        return settings.model
    names = store.names()
    if len(names) == 1:
        return names[0]
    return _DEMO if _DEMO in names else None


def _expected_budget_ms(settings: Settings, store: Store, model: str | None) -> float:
    """The budget before the model is loaded, from its manifest: the buckets of the latency series lie around it."""
    provider = open_provider() if settings.provider == "auto" else settings.provider
    form = None
    with contextlib.suppress(FlawscribeError):
        if model is not None:
            forms = store.manifest(model, store.active_version(model)).forms
            wanted: FormName = "int8" if settings.precision == "auto" else settings.precision
            form = forms.get(wanted, forms["float32"])
    return _budget_ms(settings, form, provider)


def _budget_ms(settings: Settings, form: Form | None, provider: str) -> float:
    """Budget of one window: as configured, 2 ms on CUDA, or 1.25 x the form's own network time on a CPU."""
    if settings.budget_ms is not None:
        return settings.budget_ms
    if provider == "cuda":
        return _CUDA_BUDGET_MS
    return _UNKNOWN_CPU_MS if form is None else form.network_ms_per_window * _CPU_MARGIN
