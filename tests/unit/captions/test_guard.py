from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from service.captions.answer import LlmAnswer, LlmUnavailable, Reason, Usage
from service.captions.client import LlmClient, LlmSettings
from service.captions.guard import GuardedLlm, GuardSettings, LlmEvent
from service.captions.prompt import LlmTask
from service.records.entities import DailySpend
from service.records.store import Records, RecordsOptions
from tests.llm_tasks import llm_task, soon

DAY = date(2026, 11, 25)


class Scripted(LlmClient):
    """A client whose endpoint is a list: answers with a usage, or fails with a reason; `held` keeps calls waiting."""

    def __init__(self, *script: Reason | Usage | LlmUnavailable) -> None:
        super().__init__(LlmSettings("http://127.0.0.1:9/v1", "vision"))
        self.endless = list(script) or [Usage(100, 10, 1)]
        self.calls = 0
        self.running = 0
        self.most_running = 0
        self.entered = asyncio.Semaphore(0)
        self.held: asyncio.Event | None = None

    async def caption(self, task: LlmTask, deadline: float) -> LlmAnswer:
        self.calls += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.entered.release()
        try:
            if self.held:
                await self.held.wait()
        finally:
            self.running -= 1
        reply = self.endless.pop(0) if len(self.endless) > 1 else self.endless[0]
        if isinstance(reply, Usage):
            return LlmAnswer(None, (None,), "default-1", "vision", reply)
        raise reply if isinstance(reply, LlmUnavailable) else LlmUnavailable(reply, "scripted", usage=Usage(calls=1))


@dataclass
class Bench:
    """A guarded scripted client with its clock, its day and its events."""

    client: Scripted
    events: list[LlmEvent] = field(default_factory=list)
    now: float = 0.0
    day: date = DAY

    def guard(self, **settings: Any) -> GuardedLlm:
        return GuardedLlm(
            self.client,
            GuardSettings(**settings),
            on_event=self.events.append,
            clock=lambda: self.now,
            today=lambda: self.day,
        )


def bench(*script: Reason | Usage | LlmUnavailable) -> Bench:
    return Bench(Scripted(*script))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def numbered(number: int) -> LlmTask:
    """Tasks that differ, so that none is answered from the cache."""
    return llm_task(context=f"part {number}")


async def outcomes(guard: GuardedLlm, count: int, first: int = 0) -> list[str]:
    found = []
    for number in range(first, first + count):
        try:
            await guard.caption(numbered(number))
            found.append("ok")
        except LlmUnavailable as failure:
            found.append(failure.reason.value)
    return found


def test_the_same_task_is_asked_once() -> None:
    async def test() -> None:
        b = bench()
        guard = b.guard()
        first, second = await guard.caption(llm_task()), await guard.caption(llm_task())
        assert b.client.calls == 1
        assert (first.usage, second.usage) == (Usage(100, 10, 1), Usage())
        assert [event.outcome for event in b.events] == ["ok", "cached"]
        assert guard.budget.spent == DailySpend(DAY, 1, 110)

    run(test)


def test_the_cache_forgets_what_was_longest_unused() -> None:
    async def test() -> None:
        b = bench()
        guard = b.guard(cache_entries=2)
        for number in (1, 2, 1, 3, 1, 2):
            await guard.caption(numbered(number))
        assert [event.outcome for event in b.events] == ["ok", "ok", "cached", "ok", "cached", "ok"]

    run(test)


def test_failures_are_not_kept() -> None:
    async def test() -> None:
        b = bench(Reason.SERVER_ERROR, Usage(1, 1, 1))
        guard = b.guard()
        with pytest.raises(LlmUnavailable):
            await guard.caption(llm_task())
        await guard.caption(llm_task())
        assert b.client.calls == 2

    run(test)


def test_the_breaker_opens_after_failures_in_a_row_and_one_probe_closes_it() -> None:
    async def test() -> None:
        b = bench(*[Reason.TIMEOUT] * 4, Usage(1, 1, 1))
        guard = b.guard(failures_to_open=3, open_seconds=30)
        assert await outcomes(guard, 5) == ["timeout"] * 3 + ["circuit_open"] * 2
        assert b.client.calls == 3
        b.now = 30
        assert guard.breaker.state == "half_open"
        assert await outcomes(guard, 2) == ["timeout", "circuit_open"]
        b.now = 60
        assert await outcomes(guard, 2, 10) == ["ok", "ok"]
        assert guard.breaker.state == "closed"

    run(test)


def test_only_one_probe_goes_at_a_time_and_a_cancelled_one_frees_its_place() -> None:
    async def test() -> None:
        b = bench(Reason.CONNECTION, Usage(1, 1, 1))
        guard = b.guard(failures_to_open=1, open_seconds=30)
        await outcomes(guard, 1)
        b.now = 30
        await b.client.entered.acquire()
        b.client.held = asyncio.Event()
        probe = asyncio.create_task(guard.caption(numbered(1)))
        await b.client.entered.acquire()
        assert await outcomes(guard, 1, 2) == ["circuit_open"]
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        b.client.held = None
        assert await outcomes(guard, 1, 3) == ["ok"]
        assert [event.outcome for event in b.events] == ["connection", "circuit_open", "cancelled", "ok"]

    run(test)


def test_successes_between_failures_keep_it_closed() -> None:
    async def test() -> None:
        b = bench(Reason.TIMEOUT, Usage(1, 1, 1), Reason.TIMEOUT, Usage(1, 1, 1), Reason.TIMEOUT, Usage(1, 1, 1))
        assert "circuit_open" not in await outcomes(b.guard(failures_to_open=2), 6)

    run(test)


@pytest.mark.parametrize("reason", [Reason.REFUSED, Reason.CONTENT_FILTER, Reason.TOO_LONG])
def test_what_is_said_of_contents_does_not_open_it(reason: Reason) -> None:
    async def test() -> None:
        assert await outcomes(bench(reason).guard(failures_to_open=1), 3) == [reason.value] * 3

    run(test)


def test_retry_after_is_kept_to() -> None:
    async def test() -> None:
        b = bench(LlmUnavailable(Reason.RATE_LIMITED, "slow down", retry_after=7), Usage(1, 1, 1))
        guard = b.guard()
        assert await outcomes(guard, 2) == ["rate_limited", "circuit_open"]
        with pytest.raises(LlmUnavailable) as refused:
            await guard.caption(numbered(9))
        assert refused.value.retry_after == 7
        b.now = 7
        assert await outcomes(guard, 1) == ["ok"]

    run(test)


def test_calls_of_a_day_are_bounded_and_begin_anew_at_midnight() -> None:
    async def test() -> None:
        b = bench()
        guard = b.guard(daily_calls=2)
        assert await outcomes(guard, 3) == ["ok", "ok", "budget"]
        assert guard.breaker.state == "closed"
        b.day = date(2026, 11, 26)
        assert guard.budget.spent == DailySpend(b.day)
        assert await outcomes(guard, 1, 5) == ["ok"]

    run(test)


def test_tokens_of_a_day_are_bounded_by_estimate_and_by_what_was_told() -> None:
    async def test() -> None:
        guard = bench(Usage(900, 100, 1)).guard(daily_tokens=3000, tokens_per_call=1500)
        assert await outcomes(guard, 4) == ["ok", "ok", "budget", "budget"]
        assert guard.budget.spent == DailySpend(DAY, 2, 2000)

    run(test)


def test_a_failed_call_whose_tokens_nobody_tells_is_counted_at_the_estimate() -> None:
    async def test() -> None:
        failure = LlmUnavailable(Reason.TIMEOUT, "late", usage=Usage(calls=2, untold=1))
        guard = bench(failure).guard(tokens_per_call=1500)
        await outcomes(guard, 1)
        assert guard.budget.spent == DailySpend(DAY, 2, 1500)

    run(test)


def test_many_at_once_do_not_overspend() -> None:
    async def test() -> None:
        b = bench()
        b.client.held = asyncio.Event()
        guard = b.guard(daily_calls=3, concurrency=10)
        tasks = [asyncio.create_task(guard.caption(numbered(number))) for number in range(8)]
        for _ in range(3):
            await b.client.entered.acquire()
        b.client.held.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(answer, LlmAnswer) for answer in answers) == 3
        assert guard.budget.spent.calls == 3

    run(test)


def test_spending_outlives_the_process_and_ends_with_the_day(tmp_path: Path) -> None:
    async def test() -> None:
        records = Records(RecordsOptions(tmp_path))
        guard = bench().guard(daily_calls=2)
        guard.budget.keep_in(records)
        assert await outcomes(guard, 3) == ["ok", "ok", "budget"]
        records.close()
        again = Records(RecordsOptions(tmp_path))
        b = bench()
        guard = b.guard(daily_calls=2)
        guard.budget.keep_in(again)
        assert guard.budget.spent == DailySpend(DAY, 2, 220)
        assert await outcomes(guard, 1) == ["budget"]
        b.day = date(2026, 11, 26)
        guard.budget.refresh()
        assert await outcomes(guard, 1, 5) == ["ok"]
        again.close()

    run(test)


def test_services_on_one_database_share_the_budget(tmp_path: Path) -> None:
    async def test() -> None:
        records = Records(RecordsOptions(tmp_path))
        one, other = bench().guard(daily_calls=3), bench().guard(daily_calls=3)
        for guard in (one, other):
            guard.budget.keep_in(records)
        assert await outcomes(one, 2) == ["ok", "ok"]
        records.spend(DailySpend(DAY)).result(20)  # written after theirs
        other.budget.refresh()
        assert await outcomes(other, 2) == ["ok", "budget"]
        records.close()

    run(test)


def test_spending_that_cannot_be_written_is_counted_and_written_later(tmp_path: Path) -> None:
    async def test() -> None:
        records = Records(RecordsOptions(tmp_path))
        records.close()  # its writer refuses
        guard = bench().guard(daily_calls=3)
        guard.budget.keep_in(records)
        assert await outcomes(guard, 2) == ["ok", "ok"]
        assert guard.budget.spent.calls == 2
        again = Records(RecordsOptions(tmp_path))
        guard.budget.keep_in(again)
        assert await outcomes(guard, 2, 5) == ["ok", "budget"]
        again.close()
        assert again.spent(DAY) == DailySpend(DAY, 3, 330)

    run(test)


def test_no_more_than_allowed_run_at_once() -> None:
    async def test() -> None:
        b = bench()
        b.client.held = asyncio.Event()
        guard = b.guard(concurrency=2)
        tasks = [asyncio.create_task(guard.caption(numbered(number))) for number in range(6)]
        for _ in range(2):
            await b.client.entered.acquire()
        b.client.held.set()
        await asyncio.gather(*tasks)
        assert b.client.most_running == 2

    run(test)


def test_who_finds_no_slot_until_the_deadline_is_told_busy() -> None:
    async def test() -> None:
        b = bench()
        b.client.held = asyncio.Event()
        guard = b.guard(concurrency=1)
        first = asyncio.create_task(guard.caption(numbered(1)))
        await b.client.entered.acquire()
        with pytest.raises(LlmUnavailable) as busy:
            await guard.caption(numbered(2), soon(0.05))
        assert busy.value.reason is Reason.BUSY
        assert guard.breaker.state == "closed"
        b.client.held.set()
        await first
        assert await outcomes(guard, 1, 3) == ["ok"]

    run(test)


def test_the_deadline_is_never_later_than_allowed() -> None:
    async def test() -> None:
        b = bench()
        given: list[float] = []
        original = b.client.caption

        async def caption(task: LlmTask, deadline: float) -> LlmAnswer:
            given.append(deadline - soon(0))
            return await original(task, deadline)

        b.client.caption = caption  # type: ignore[method-assign]
        guard = b.guard(deadline_seconds=20)
        await guard.caption(numbered(1))
        await guard.caption(numbered(2), soon(1000))
        await guard.caption(numbered(3), soon(5))
        assert max(given) <= 20
        assert given[2] <= 5

    run(test)


def test_events_tell_tokens_and_cost() -> None:
    async def test() -> None:
        b = bench(Usage(1_000_000, 500_000, 1))
        await b.guard(price_in=2.0, price_out=8.0).caption(llm_task())
        (event,) = b.events
        assert (event.outcome, event.tokens_in, event.tokens_out, event.cost) == ("ok", 1_000_000, 500_000, 6.0)
        assert event.seconds >= 0
        free = bench()
        await free.guard(price_in=2.0).caption(llm_task())
        assert free.events[0].cost is None

    run(test)


def test_callers_without_time_say_nothing_of_the_endpoint() -> None:
    async def test() -> None:
        b = bench(Reason.TIMEOUT)
        guard = b.guard(failures_to_open=2, deadline_seconds=20.0)
        for number in range(4):
            with pytest.raises(LlmUnavailable):
                await guard.caption(numbered(number), time.monotonic() + 1)
        assert guard.breaker.state == "closed"
        assert await outcomes(guard, 3, 4) == ["timeout", "timeout", "circuit_open"]
        b.now += 1000
        with pytest.raises(LlmUnavailable):  # as a probe neither
            await guard.caption(numbered(9), time.monotonic() + 1)
        assert guard.breaker.state == "half_open"

    run(test)
