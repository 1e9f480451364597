"""create_app(settings): everything the service owns is made here, and nowhere at import."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from fastapi import Depends, FastAPI

from service import __version__
from service.api import (
    classify,
    detect,
    docs,
    event_stream,
    health,
    inspection_pictures,
    inspections,
    login,
    masters,
    memory,
    model_figures,
    models,
    problems,
    reports,
    shadows,
    trainings,
)
from service.api.access import load_keys
from service.api.frame import Frame
from service.api.loop import watch_lag
from service.api.masters import show_checks
from service.api.query import once_each
from service.api.schemas import Problem
from service.api.state import ServiceState
from service.bundle.store import EngineOptions, Store, expected_budget_s
from service.captions.captioner import Captioner
from service.captions.follower import Follower
from service.captions.memory import Memory
from service.captions.products import load_products
from service.console.pages import make_router
from service.decision.verdict import conformal_p_value
from service.errors import FlawscribeError, RecordsFailure, SettingsError
from service.inspector import Inspector
from service.metrics import Metrics
from service.records.database import DatabaseAway
from service.records.drift import against_calibration, read_accepted_p_values
from service.records.retention import Keep
from service.records.store import Records, RecordsOptions
from service.settings import Settings, load_settings
from service.types import ModelIdentity

if TYPE_CHECKING:
    from service.captions.guard import GuardedLlm

log = logging.getLogger("flawscribe.app")
_HOUSEKEEPING_S = 3600
_DRIFT_S = 60.0  # until drift is first judged, and then the shortest pause
_FOLLOW_S = 2.0
_SETTING = "a setting, or what it names, cannot be used; the service's log says which"
_RECORDS_AWAY = "the records' database cannot be used at present; the service's log says why"
_AGAIN_S = 3.0  # until a database that is away is asked again
_DRIFT_WORDS = ("too few", "steady", "shifting", "drifted")
_DEMO = "polka-dot"


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI app. It loads and warms up the default model in the background; /readyz tells when that is done.

    Raises SettingsError, or NoSuchModel when the configured model is not there.
    """
    settings = settings or load_settings()
    store = Store(
        settings.models_dir,
        EngineOptions.of(settings),
        memory_bytes=None if settings.model_memory_mb is None else int(settings.model_memory_mb * 2**20),
    )
    default_model = _default_model(settings, store)
    pinned = [name.strip() for name in (default_model or "", *settings.pinned_models.split(","))]
    store.pinned = frozenset(name for name in pinned if name)
    budget_s = None if settings.budget_ms is None else settings.budget_ms / 1000
    metrics = Metrics(budget_s or _budget_before_loading(store, default_model))
    metrics.models_bytes.set_function(lambda: store.resident_bytes)
    inspector = Inspector(
        metrics,
        queue_windows=settings.queue_windows,
        max_pixels=int(settings.max_megapixels * 1_000_000),
        decode_threads=settings.decode_threads,
        budget_s=budget_s,
    )
    state = ServiceState(settings, load_keys(settings.keys_file), store, metrics, inspector, default_model)
    metrics.training_running.set_function(lambda: state.trainings.running() is not None)
    metrics.training_failed.set_function(state.trainings.newest_failed)
    app = FastAPI(
        title="Flawscribe",
        version=__version__,
        description="Visual inspection: is a part anomalous, and where?",
        lifespan=lambda _: _life(state),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be made of the client's Host, and send a picture and its key anew
        responses={
            code: {"model": Problem, "description": text, "content": {problems.MEDIA_TYPE: {}}}
            for code, text in (("4XX", "The request cannot be answered as it is"), ("5XX", "Not ready, or failed"))
        },
    )
    app.state.service = state
    problems.install(app)
    pages = (health, docs, login, event_stream, memory)
    recorded = (inspections, inspection_pictures, reports)
    for part in (detect, classify, *recorded, models, model_figures, masters, shadows, trainings, *pages):
        app.include_router(part.router, dependencies=[Depends(once_each)])
    app.include_router(make_router(login.viewer_of))
    app.add_middleware(Frame, state=state)
    return app


@contextlib.asynccontextmanager
async def _life(state: ServiceState) -> AsyncIterator[None]:
    state.llm = _open_llm(state.settings, state.metrics)
    works = (_load_default, _keep_house, _watch_scores, _follow_others, watch_lag)
    tasks = [asyncio.create_task(work(state)) for work in works]
    try:
        yield
    finally:
        state.lifecycle.draining = True
        state.events.close()
        if state.pending:  # words that a client was promised
            await asyncio.wait(set(state.pending.values()), timeout=state.settings.drain_s)
        for task in (*tasks, *state.pending.values()):
            task.cancel()
        if state.llm is not None:
            await state.llm.close()
        await asyncio.to_thread(state.inspector.close)
        await asyncio.to_thread(state.trainings.close)
        await asyncio.to_thread(state.shadows.close)
        for pool in (state.loaders, state.keepers, state.fetchers, state.readers):
            pool.shutdown(wait=False, cancel_futures=True)
        if state.records is not None:
            await asyncio.to_thread(state.records.close)


async def _load_default(state: ServiceState) -> None:
    """Open the records, load and warm up what answers when no model is named, then say ready."""
    opening = asyncio.create_task(_open_records_at_last(state))
    try:
        refused = await _refusal_of_default(state)
        await opening
        if state.default_model is None:  # one may have come into service meanwhile
            state.default_model = _default_model(state.settings, state.store)
            refused = await _refusal_of_default(state)
        loaded = {bundle.manifest.name for bundle in state.store.in_service()}  # another version, activated meanwhile
        if refused is not None and state.default_model not in loaded:
            state.lifecycle.wants_model = True  # a version of it that can be loaded, once activated
            raise refused
        if state.default_model is None and not _served_names(state.store):
            state.lifecycle.wants_model = True
            state.lifecycle.failure = _why_no_model(state)
            log.error(state.lifecycle.failure)
            return
        state.lifecycle.ready = True
    except FlawscribeError as error:
        # a setting's fault names folders and addresses
        told = _SETTING if isinstance(error, SettingsError) else state.without_folder(error.detail)
        state.lifecycle.failure = told
        log.error("not ready: %s", error.detail)
    finally:
        opening.cancel()


async def _refusal_of_default(state: ServiceState) -> FlawscribeError | None:
    """Load what answers when no model is named; why that cannot be, or None."""
    if state.default_model is None:
        return None
    try:
        state.describe(await asyncio.to_thread(state.store.load, state.default_model))
    except FlawscribeError as error:
        return error
    return None


async def _open_records_at_last(state: ServiceState) -> None:
    """Open the records; a database that is away is asked again, since after a machine's restart it may come up behind us."""
    told = None
    while True:
        try:
            await asyncio.to_thread(_open_records, state)
            state.lifecycle.failure = None
            return
        except (DatabaseAway, RecordsFailure) as error:  # or it went away again while it was read
            if error.detail != told:
                log.error("not ready, but trying again: %s", error.detail)
            told = error.detail
            state.lifecycle.failure = _RECORDS_AWAY
        await asyncio.sleep(_AGAIN_S)


def _open_records(state: ServiceState) -> None:
    """The records, the memory of their cases, and what puts flaws into words. Raises SettingsError, RecordsFailure."""
    settings = state.settings
    products = load_products(settings.products_dir)
    memory = Memory()
    if settings.store == "off":
        state.captioner = Captioner(products, memory, state.llm)
        return
    age = None if settings.keep_days is None else timedelta(days=settings.keep_days)
    size = None if settings.keep_pictures_gb is None else int(settings.keep_pictures_gb * 2**30)
    records = Records(RecordsOptions(settings.records_dir, settings.database_url, keep=Keep(age, size)))
    try:
        captioner = Captioner(products, memory, state.llm, records.accepted)
        state.follower = Follower(records, captioner)
        if state.llm is not None:
            state.llm.budget.keep_in(records)
        state.records, state.captioner = records, captioner
        show_checks(state)
        state.shadows.restore(records, state.store.active_version)
    except BaseException:
        state.records = state.captioner = state.follower = None
        records.close()
        raise


def _open_llm(settings: Settings, metrics: Metrics) -> GuardedLlm | None:
    """The LLM within its limits; None when none is set up."""
    if settings.llm_base_url is None:
        return None
    # the library takes a second to import: only those who have an LLM pay for it
    from service.captions.guard import LlmEvent, open_llm  # noqa: PLC0415

    def count(event: LlmEvent) -> None:
        metrics.llm_requests.labels(event.outcome).inc()
        metrics.llm_seconds.observe(event.seconds)
        metrics.llm_tokens.labels("in").inc(event.tokens_in)
        metrics.llm_tokens.labels("out").inc(event.tokens_out)
        metrics.llm_cost.inc(event.cost or 0.0)

    return open_llm(settings, count)


async def _keep_house(state: ServiceState) -> None:
    """Once an hour: remove what may not stay any longer, and see what other services checked."""
    while True:
        await asyncio.sleep(_HOUSEKEEPING_S)
        if state.records is not None:
            try:
                removed = await asyncio.to_thread(state.records.retention.run)
                log.info("retention removed %s", removed)
                await asyncio.to_thread(show_checks, state)
            except Exception as error:  # whatever a disk makes of it: the next hour must come
                _say("housekeeping", error)


async def _watch_scores(state: ServiceState) -> None:
    """Judge drift a minute after the start, or after a version came into service, and then after pauses each twice the one before,
    up to an hour: soon after there are parts enough, and seldom once a day has many of them to read."""
    known: dict[str, ModelIdentity] = {}
    pause = due = 0.0
    while True:
        await asyncio.sleep(_DRIFT_S)
        if state.records is None:
            continue
        serving = known | {bundle.manifest.name: bundle.identity for bundle in state.store.in_service()}
        if serving != known:
            known, pause, due = serving, _DRIFT_S, 0.0
        if time.monotonic() < due:
            continue
        due, pause = time.monotonic() + pause, min(2 * pause, _HOUSEKEEPING_S)
        try:
            await asyncio.to_thread(watch_drift, state, datetime.now(UTC))
        except Exception as error:  # else drift would never be judged again
            _say("drift is not judged", error)


async def _follow_others(state: ServiceState) -> None:
    """Every two seconds: learn what was reviewed, and hear what was spent, at other services on the same database."""
    while True:
        await asyncio.sleep(_FOLLOW_S)
        if state.follower is not None:
            try:
                await asyncio.to_thread(state.follower.catch_up)
                if state.llm is not None:
                    await asyncio.to_thread(state.llm.budget.refresh)
            except Exception as error:  # else they would never be followed again
                _say("other services are not followed", error)


def _say(what: str, error: Exception) -> None:
    """Log why a work that comes again failed this time."""
    if isinstance(error, FlawscribeError):
        log.error("%s: %s", what, error.detail)
    else:
        log.error("%s", what, exc_info=error)


def watch_drift(state: ServiceState, now: datetime) -> None:
    """Set the drift series of every model in service from its last day's accepted parts."""
    assert state.records is not None
    judged: set[str] = set()
    for bundle in state.store.in_service():
        name, form = bundle.manifest.name, bundle.form
        seen = read_accepted_p_values(
            state.records.database,
            name,
            bundle.manifest.version,
            bundle.form_name,
            since=now - timedelta(days=1),
            until=now,
            review_threshold=form.review_threshold,
        )
        least = conformal_p_value(form.review_threshold, form.calibration_scores)
        values = np.array([each.p_value for each in seen])
        drift = against_calibration(values, len(form.calibration_scores), least)
        state.metrics.drift_state.labels(name).set(_DRIFT_WORDS.index(drift.word))
        state.metrics.drift_psi.labels(name).set(drift.psi or 0.0)
        judged.add(name)
        if drift.word == "drifted":
            log.warning("scores of %s have drifted: %s", name, drift)
    for name in set(state.store.names()) - judged:  # what was said of a model that has left memory since is of that day
        for series in (state.metrics.drift_state, state.metrics.drift_psi):
            with contextlib.suppress(KeyError):
                series.remove(name)


def _default_model(settings: Settings, store: Store) -> str | None:
    """The configured model, else the only one, else the bundled demo, else none."""
    if settings.model is not None:
        store.versions(settings.model)  # raises NoSuchModel: a wrong name in the configuration shows at start
        return settings.model
    names = _served_names(store)
    if len(names) == 1:
        return names[0]
    return _DEMO if _DEMO in names else None


def _served_names(store: Store) -> list[str]:
    return [name for name in store.names() if store.active_version(name) is not None]


def _why_no_model(state: ServiceState) -> str:
    if names := state.store.names():
        return f"no model is in service; put one in service: POST /models/NAME/activate (there are {', '.join(names)})"
    return f"no model in {state.settings.models_dir}; train one: flawscribe train --help"


def _budget_before_loading(store: Store, model: str | None) -> float:
    """The default model's own budget by its manifest: the buckets of the latency series lie around it."""
    manifest = None
    with contextlib.suppress(FlawscribeError):
        if model is not None and (version := store.active_version(model)) is not None:
            manifest = store.manifest(model, version)
    return expected_budget_s(manifest, store.options)
