"""What an app owns, made once by create_app and reached through the request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from service.api.access import ApiKey, KeyRing, Scope, key_in, require_scope
from service.api.events import Events, model_changed
from service.api.sessions import Sessions
from service.api.wire import BodyLimits
from service.bundle.manifest import Manifest
from service.bundle.store import Bundle, Store, expected_budget_s
from service.captions.captioner import Captioner
from service.captions.follower import Follower
from service.engine.session import available_cores
from service.errors import DeadlineExceeded, FlawscribeError, NotReady, Overloaded, Unauthorized
from service.inspector import Inspector
from service.metrics import Metrics
from service.records.store import Records
from service.settings import Settings
from service.shadow.runner import ShadowOptions, Shadows
from service.trainings.supervisor import Place, Trainings

if TYPE_CHECKING:
    from service.captions.guard import GuardedLlm

log = logging.getLogger("flawscribe.app")
T = TypeVar("T")
_KEEPERS = 4  # pictures that are written at once, and as many that are read
_READERS = 4  # looks into the records at once


@dataclass(slots=True)
class Lifecycle:
    """Where the service stands between start and stop."""

    ready: bool = False
    draining: bool = False
    failure: str | None = None  # why it cannot become ready
    wants_model: bool = (
        False  # that reason is that no model is in service, or the default one refused; activating one ends it
    )
    in_flight: int = 0

    def why_not_ready(self) -> str | None:
        """The reason for a 503, or None when requests are taken."""
        if self.draining:
            return "the service is shutting down"
        if not self.ready:
            return self.failure or "the model is being loaded and warmed up"
        return None


@dataclass(slots=True)
class ServiceState:
    """The parts that answer requests."""

    settings: Settings
    keys: KeyRing
    store: Store
    metrics: Metrics
    inspector: Inspector
    default_model: str | None
    records: Records | None = None  # opened while the model is loaded; None where nothing is recorded
    captioner: Captioner | None = None
    follower: Follower | None = None  # there once records are
    llm: GuardedLlm | None = None
    pending: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # inspections whose words are still to come
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    sessions: Sessions = field(init=False)
    events: Events = field(init=False)
    trainings: Trainings = field(init=False)
    shadows: Shadows = field(init=False)
    # models are loaded by threads of their own, so that many who wait for one do not hold up all else that runs in threads
    loaders: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "flawscribe-loads"))
    # and pictures kept, on a disk that may be far away and stall; `keeping` lets as many in as there are threads, since what
    # waits within a pool stays in memory, with its pictures, when its request has long been answered
    keepers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_KEEPERS, "flawscribe-pictures"))
    keeping: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_KEEPERS))
    fetchers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_KEEPERS, "flawscribe-fetches"))
    # and records read, some of them by the thousand, from a database that may be slow
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_READERS, "flawscribe-reads"))
    promised: int = 0  # pictures of requests under way whose words are to come later
    _bodies: int = 0  # bytes of request bodies that may be in memory now

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.keys)
        self.events = Events(self.metrics)
        settings = self.settings
        cores = settings.background_cores or max(1, available_cores() // 2)
        place = Place(
            settings.trainings_dir, settings.models_dir, settings.training_data_dir, cores, settings.background_nice
        )
        self.trainings = Trainings(place, self.store.keep_choice)
        largest = int(settings.max_megapixels * 1_000_000)
        options = ShadowOptions(settings.models_dir, cores, settings.background_nice, largest)
        self.shadows = Shadows(options, self.metrics)

    @contextlib.contextmanager
    def room_for_body(self, headers: Mapping[str, str]) -> Iterator[None]:
        """Room for a request's body until the block ends: as announced, else the largest. Raises Overloaded without room.

        Pictures are bounded by the queue, but only once their bodies are here.
        """
        largest, announced = self.limits.max_bytes, headers.get("content-length", "")
        size = min(largest, int(announced)) if announced.isdecimal() else largest
        if self._bodies + size > self.settings.bodies_mb * 1024 * 1024:
            self.metrics.rejected.labels("bodies").inc()
            raise Overloaded("too many request bodies are in memory", retry_after=1)
        self._bodies += size
        try:
            yield
        finally:
            self._bodies -= size

    @property
    def limits(self) -> BodyLimits:
        """Limits of a request body."""
        settings = self.settings
        return BodyLimits(
            max_bytes=int(settings.max_body_mb * 1024 * 1024),
            max_images=settings.max_images,
            max_pixels=int(settings.max_megapixels * 1_000_000),
            timeout_s=settings.body_timeout_s,
        )

    @property
    def small_body(self) -> BodyLimits:
        """Limits of a body that is a few words of JSON."""
        return replace(self.limits, max_bytes=64 * 1024)

    @contextlib.asynccontextmanager
    async def leased(
        self, name: str, version: int | None = None, deadline: float | None = None
    ) -> AsyncIterator[Bundle]:
        """A model's bundle for one request; one that is not in memory is loaded off the event loop, which goes on when the
        `deadline` (time.monotonic()) passes meanwhile, for those who ask next.

        Raises NoSuchModel, BundleRefused, NotReady or DeadlineExceeded.
        """
        lease = self.store.lease_loaded(name, version)
        if lease is not None:
            bundle = lease.__enter__()
        else:
            lease = self.store.lease(name, version)
            loading: asyncio.Future[Bundle] | None = None
            try:
                async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    await asyncio.to_thread(
                        self.store.require, name, version
                    )  # a wrong name waits for nobody's loading
                    loading = asyncio.get_running_loop().run_in_executor(self.loaders, lease.__enter__)
                    bundle = await asyncio.shield(loading)
            except (TimeoutError, asyncio.CancelledError) as error:
                if loading is not None:
                    loading.add_done_callback(partial(_given_back, lease))
                if isinstance(error, TimeoutError):
                    raise DeadlineExceeded("the deadline passed while the model was being loaded") from None
                raise
        try:
            yield bundle
        finally:
            lease.__exit__(None, None, None)

    async def fetched(self, fetch: Callable[..., T], *told: object, deadline: float) -> T:
        """What `fetch(*told)` reads of the kept pictures, in threads that do nothing else: where their disk stalls, nothing else
        does. Raises DeadlineExceeded when the `deadline` (time.monotonic()) passes meanwhile, and what `fetch` raises."""
        reading = asyncio.get_running_loop().run_in_executor(self.fetchers, partial(fetch, *told))
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await reading
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the kept pictures were read") from None

    async def read(self, look: Callable[..., T], *told: object) -> T:
        """What `look(*told)` finds in the records, in threads that do nothing else: who reads much, or from a database that
        stalls, holds up others who read and not the pictures that are to be judged. Raises what `look` raises."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, partial(look, *told))

    def key_of(self, request: Request) -> ApiKey | None:
        """The caller's key, of a header or else of a browser's session; None where none is needed.

        Raises Unauthorized without a valid one, Forbidden for a session's unsafe request without its CSRF token.
        """
        if not self.keys.required:
            return None
        given = key_in(request.headers)
        key = self.keys.named(given) if given is not None else self.sessions.key_of(request)
        if key is None:
            raise Unauthorized("a valid API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
        return key

    def caller(self, request: Request) -> str:
        """Who asks: the id of the API key, or `anybody` where none is needed. Raises Unauthorized."""
        key = self.key_of(request)
        return key.id if key is not None else "anybody"

    async def note_model_change(self, request: Request, name: str, detail: dict[str, Any]) -> None:
        """Write into the audit that the caller changed a model, and tell all who listen; the log has it too, since what is done
        is done whether the records take it or not. Raises RecordsBusy, RecordsFailure."""
        who = self.caller(request)
        log.info("model %s: %s by %s", name, detail, who)
        try:
            if self.records is not None:
                await asyncio.wrap_future(self.records.model_changed(who, name, detail))
            elif self.settings.store != "off":
                log.warning("model %s: %s by %s is not in the audit: its records are away", name, detail, who)
        except FlawscribeError as error:
            log.error("model %s: %s by %s is not in the audit: %s", name, detail, who, error.detail)
            raise
        finally:
            self.events.publish(model_changed(name, datetime.now(UTC), who, detail))

    def describe(self, bundle: Bundle) -> None:
        """Say which version of a model is in service, and its budget: a log line and two series. The first model of a service
        that had none, or whose own was refused, makes it ready."""
        if self.lifecycle.wants_model and self.default_model in (None, bundle.manifest.name):
            self.default_model = bundle.manifest.name
            self.lifecycle.wants_model, self.lifecycle.failure, self.lifecycle.ready = False, None, True
        identity = bundle.identity
        log.info("model %s %s, %s on %s", identity.name, identity.version, identity.precision, identity.provider)
        self.metrics.model_info.labels(identity.name).info(
            {"version": str(identity.version), "precision": identity.precision, "provider": identity.provider}
        )
        self.metrics.budget_seconds.labels(identity.name).set(self.inspector.budget_of(bundle))

    def without_folder(self, detail: str) -> str:
        """A bundle's fault as clients may see it: its name and version in place of where it lies on this machine."""
        folder = self.store.models_dir
        return detail.replace(f"{folder}{os.sep}", "") if folder.is_absolute() else detail

    def budget_s(self, manifest: Manifest) -> float:
        """Latency budget of one window of a version, in seconds: that of its form in service, else of the one expected."""
        for bundle in self.store.in_service():
            if (bundle.manifest.name, bundle.manifest.version) == (manifest.name, manifest.version):
                return self.inspector.budget_of(bundle)
        set_budget = self.inspector.budget_s
        return expected_budget_s(manifest, self.store.options) if set_budget is None else set_budget

    def require_ready(self) -> None:
        """Raises NotReady while loading or draining, or when the inference thread is gone."""
        reason = self.lifecycle.why_not_ready()
        if reason is None and not self.inspector.batcher.alive:
            reason = "the inference thread is being restarted"
        if reason is not None:
            raise NotReady(reason, retry_after=2)


def _given_back(lease: AbstractContextManager[Bundle], loading: asyncio.Future[Bundle]) -> None:
    """End the lease of a model that nobody waits for any more."""
    if not loading.cancelled() and loading.exception() is None:
        lease.__exit__(None, None, None)


def state_of(request: Request) -> ServiceState:
    """The app's parts."""
    state: ServiceState = request.app.state.service
    return state


def require(request: Request, *scopes: Scope) -> ServiceState:
    """The app's parts, for a caller whose key has one of `scopes`. Raises Unauthorized or Forbidden."""
    state = state_of(request)
    key = state.key_of(request)
    if key is not None:
        require_scope(key, *scopes)
    return state
