"""Keeps the LLM from costing more than it may, in time, calls or money: cache, circuit breaker, daily budget, concurrency."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Protocol, TypeVar

from service.captions.answer import LlmAnswer, LlmSummary, LlmUnavailable, Reason, Usage
from service.captions.client import LlmClient, LlmSettings
from service.captions.prompt import LlmTask
from service.errors import RecordsBusy
from service.records.entities import DailySpend
from service.settings import Settings

log = logging.getLogger("flawscribe.captions")
Answered = TypeVar("Answered", LlmAnswer, LlmSummary)

_PATIENT = 0.5  # share of the longest wait, from which a call that got no answer in it tells something of the endpoint
# said of one task's contents; they tell nothing of the endpoint
_OF_CONTENTS = {Reason.REFUSED, Reason.CONTENT_FILTER, Reason.TOO_LONG}


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Limits. `None` means none. `tokens_per_call`: what a call is counted at until its endpoint tells, or when it never does.

    `price_in`, `price_out`: money for a million tokens, in a currency of the operator's; without both, no cost is told.
    """

    deadline_seconds: float = 20.0
    concurrency: int = 4
    failures_to_open: int = 5
    open_seconds: float = 30.0
    daily_calls: int | None = None
    daily_tokens: int | None = None
    tokens_per_call: int = 4000
    cache_entries: int = 512
    price_in: float | None = None
    price_out: float | None = None


@dataclass(frozen=True, slots=True)
class LlmEvent:
    """One task, for the metrics. `outcome`: `ok`, `cached`, `cancelled`, or a Reason's word; `cost`: None without prices."""

    outcome: str
    seconds: float
    tokens_in: int
    tokens_out: int
    cost: float | None


def _utc_day() -> date:
    return datetime.now(UTC).date()


class CircuitBreaker:
    """Opens after consecutive failures; when its time is over, one probe decides whether it closes."""

    def __init__(self, failures_to_open: int, open_seconds: float, clock: Callable[[], float]) -> None:
        self._failures_to_open = failures_to_open
        self._open_seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._closed_at: float | None = None  # when the next probe may go; None while closed
        self._probing = False

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""
        if self._closed_at is None:
            return "closed"
        return "half_open" if self._clock() >= self._closed_at else "open"

    def check(self) -> None:
        """Raises LlmUnavailable `circuit_open` where no call may go."""
        state = self.state
        if state == "open" or (state == "half_open" and self._probing):
            left = max(0.0, (self._closed_at or 0.0) - self._clock())
            raise LlmUnavailable(
                Reason.CIRCUIT_OPEN, "the endpoint failed repeatedly and is left alone", retry_after=left
            )

    @contextmanager
    def call(self, *, patient: bool = True) -> Iterator[None]:
        """Around a call, as soon as it goes. A cancelled one and one refused for its contents count neither way, nor does one
        that was not `patient` and ended with its time: that was the caller's."""
        self.check()
        probing = self.state == "half_open"
        self._probing |= probing
        try:
            yield
        except LlmUnavailable as failure:
            if patient or failure.reason is not Reason.TIMEOUT:
                self._failed(failure, probing)
            raise
        else:
            if probing or self._closed_at is None:  # a call from before the failures tells nothing of now
                self._failures, self._closed_at = 0, None
        finally:
            if probing:
                self._probing = False

    def _failed(self, failure: LlmUnavailable, probing: bool) -> None:
        if failure.reason in _OF_CONTENTS:
            return
        self._failures += 1
        if failure.retry_after is not None or probing or self._failures >= self._failures_to_open:
            wait = self._open_seconds if failure.retry_after is None else failure.retry_after
            self._closed_at = self._clock() + wait


class Ledger(Protocol):
    """Where spending is kept over restarts, for all services that share it: `Records`."""

    def spent(self, day: date) -> DailySpend: ...
    def spend(self, more: DailySpend) -> Future[DailySpend]: ...


class DailyBudget:
    """Calls and tokens of a UTC day. What is under way is counted at an estimate, so that many at once do not overspend.

    With a ledger they are those of all services that share it, as last heard of; what could not be written yet is added.
    """

    def __init__(self, settings: GuardSettings, today: Callable[[], date]) -> None:
        self._settings = settings
        self._today = today
        self._under_way = 0
        self._ledger: Ledger | None = None
        self._lock = threading.Lock()  # what is written is told by the ledger's thread
        self._known = DailySpend(today())
        self._unwritten = DailySpend(today())
        self._writing = False

    @property
    def spent(self) -> DailySpend:
        """Today's spending so far."""
        with self._lock:
            self._turn_day()
            return _sum(self._known, self._unwritten)

    def keep_in(self, ledger: Ledger) -> None:
        """Go on from what the ledger holds, and keep further spending there. Blocks. Raises RecordsFailure."""
        self._ledger = ledger
        self.refresh()

    def refresh(self) -> None:
        """Hear of what other services spent. Blocks. Raises RecordsFailure."""
        if self._ledger is not None:
            self._hear(self._ledger.spent(self._today()))

    @contextmanager
    def call(self) -> Iterator[Callable[[Usage], None]]:
        """Around a task; what it yields is told the usage. Raises LlmUnavailable `budget` where no more may be spent."""
        calls, tokens = self._settings.daily_calls, self._settings.daily_tokens
        if calls is not None and self.spent.calls + self._under_way >= calls:
            raise LlmUnavailable(Reason.BUDGET, f"today's {calls} calls are used up")
        expected = (self._under_way + 1) * self._settings.tokens_per_call
        if tokens is not None and self.spent.tokens + expected > tokens:
            raise LlmUnavailable(Reason.BUDGET, f"today's {tokens} tokens are used up")
        self._under_way += 1
        try:
            yield self._add
        finally:
            self._under_way -= 1

    def _add(self, usage: Usage) -> None:
        tokens = usage.tokens_in + usage.tokens_out + usage.untold * self._settings.tokens_per_call
        with self._lock:
            self._turn_day()
            self._unwritten = _sum(self._unwritten, DailySpend(self._unwritten.day, usage.calls, tokens))
        self._write()

    def _write(self) -> None:
        """Write what is not written yet, one writing at a time; what fails waits for the next call."""
        with self._lock:
            more = self._unwritten
            if self._ledger is None or self._writing or not (more.calls or more.tokens):
                return
            self._writing = True
        try:
            self._ledger.spend(more).add_done_callback(lambda done: self._written(more, done))
        except RecordsBusy as error:
            self._failed(error)

    def _written(self, more: DailySpend, done: Future[DailySpend]) -> None:
        error = done.exception()
        if error is not None:
            self._failed(error)
            return
        with self._lock:
            self._writing = False
            if more.day == self._unwritten.day:
                left = self._unwritten
                self._unwritten = DailySpend(left.day, left.calls - more.calls, left.tokens - more.tokens)
                self._known = _later(self._known, done.result())
        self._write()

    def _failed(self, error: BaseException) -> None:
        with self._lock:
            self._writing = False
        log.error("the LLM's spending is not written yet: %s", error)

    def _hear(self, total: DailySpend) -> None:
        with self._lock:
            self._turn_day()
            self._known = _later(self._known, total)

    def _turn_day(self) -> None:
        today = self._today()
        if self._known.day != today:
            self._known = self._unwritten = DailySpend(today)


def _sum(one: DailySpend, other: DailySpend) -> DailySpend:
    return DailySpend(one.day, one.calls + other.calls, one.tokens + other.tokens)


def _later(one: DailySpend, other: DailySpend) -> DailySpend:
    """Of two sums of a day the later one, whichever was heard of first: sums only rise."""
    if one.day != other.day:
        return one
    return DailySpend(one.day, max(one.calls, other.calls), max(one.tokens, other.tokens))


class GuardedLlm:
    """An LlmClient within its limits. One event loop; every task ends in an answer or LlmUnavailable by its deadline."""

    def __init__(
        self,
        client: LlmClient,
        settings: GuardSettings,
        *,
        on_event: Callable[[LlmEvent], None] = lambda event: None,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], date] = _utc_day,
    ) -> None:
        self.settings = settings
        self.breaker = CircuitBreaker(settings.failures_to_open, settings.open_seconds, clock)
        self.budget = DailyBudget(settings, today)
        self._client = client
        self._on_event = on_event
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._cache: OrderedDict[str, LlmAnswer] = OrderedDict()

    @property
    def model(self) -> str:
        """The model asked."""
        return self._client.settings.model

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.close()

    async def caption(self, task: LlmTask, deadline: float | None = None) -> LlmAnswer:
        """As LlmClient.caption; `deadline` (time.monotonic) by default `deadline_seconds` from now, and never later."""
        began = time.monotonic()
        latest = began + self.settings.deadline_seconds
        key = self._client.key(task)
        if (cached := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            self._tell("cached", began, Usage())
            return replace(cached, usage=Usage())
        until = latest if deadline is None else min(deadline, latest)
        answer = await self._told(lambda: self._client.caption(task, until), until)
        self._remember(key, answer)
        return answer

    async def summarise(self, facts: str) -> LlmSummary:
        """As LlmClient.summarise, within the same limits."""
        until = time.monotonic() + self.settings.deadline_seconds
        return await self._told(lambda: self._client.summarise(facts, until), until)

    async def _told(self, ask: Callable[[], Awaitable[Answered]], deadline: float) -> Answered:
        """What `ask` answers, within the limits; the metrics are told what came of it."""
        began = time.monotonic()
        outcome, usage = "cancelled", Usage(calls=0)
        try:
            answer = await self._within_limits(ask, deadline)
            outcome, usage = "ok", answer.usage
        except LlmUnavailable as failure:
            outcome, usage = failure.reason.value, failure.usage
            raise
        finally:
            self._tell(outcome, began, usage)
        return answer

    async def _within_limits(self, ask: Callable[[], Awaitable[Answered]], deadline: float) -> Answered:
        self.breaker.check()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._slots.acquire()
        except TimeoutError as error:
            raise LlmUnavailable(Reason.BUSY, "all slots were taken until the deadline") from error
        patient = deadline - time.monotonic() >= _PATIENT * self.settings.deadline_seconds
        try:
            with self.budget.call() as spend, self.breaker.call(patient=patient):
                return await self._counted(ask, spend)
        finally:
            self._slots.release()

    async def _counted(self, ask: Callable[[], Awaitable[Answered]], spend: Callable[[Usage], None]) -> Answered:
        usage = Usage(calls=1, untold=1)  # what a cancelled call is counted at
        try:
            answer = await ask()
            usage = answer.usage
            return answer
        except LlmUnavailable as failure:
            usage = failure.usage
            raise
        finally:
            spend(usage)

    def _remember(self, key: str, answer: LlmAnswer) -> None:
        self._cache[key] = answer
        while len(self._cache) > self.settings.cache_entries:
            self._cache.popitem(last=False)

    def _tell(self, outcome: str, began: float, usage: Usage) -> None:
        prices = self.settings.price_in, self.settings.price_out
        cost = None
        if prices[0] is not None and prices[1] is not None:
            cost = (usage.tokens_in * prices[0] + usage.tokens_out * prices[1]) / 1e6
        self._on_event(LlmEvent(outcome, time.monotonic() - began, usage.tokens_in, usage.tokens_out, cost))


def open_llm(settings: Settings, on_event: Callable[[LlmEvent], None] = lambda event: None) -> GuardedLlm | None:
    """The LLM of the settings, within their limits; None when none is set up."""
    if settings.llm_base_url is None or settings.llm_model is None:
        return None
    endpoint = LlmSettings(settings.llm_base_url, settings.llm_model, settings.llm_api_key.get_secret_value())
    limits = GuardSettings(
        deadline_seconds=settings.llm_deadline_s,
        concurrency=settings.llm_concurrency,
        daily_calls=settings.llm_daily_calls,
        daily_tokens=settings.llm_daily_tokens,
        price_in=settings.llm_price_in,
        price_out=settings.llm_price_out,
    )
    return GuardedLlm(LlmClient(endpoint), limits, on_event=on_event)
