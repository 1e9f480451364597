"""The batcher with a runner made of numbers: every window is one number, and comes back as its own map."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.batcher import Answer, Batcher
from service.errors import DeadlineExceeded, FlawscribeError, NetworkFailure, NotReady, Overloaded, TooLarge
from service.types import Wanted, WindowMaps

FOREVER = float("inf")


class Numbers:
    """A runner that records its batches; `judge` may raise, `gate` holds it."""

    def __init__(self, ladder: Sequence[int] = (1, 2, 4), judge: Callable[[list[int]], None] | None = None) -> None:
        self.ladder = tuple(ladder)
        self.batches: list[list[int]] = []
        self.wanted: list[list[Wanted]] = []  # by batch
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.judge = judge or (lambda _: None)

    def run(self, windows: np.ndarray, wanted: Sequence[Wanted]) -> WindowMaps:
        numbers = [int(number) for number in windows.ravel()]
        self.batches.append(numbers)
        self.wanted.append(list(wanted))
        self.entered.release()
        assert self.gate.wait(30)
        self.judge(numbers)
        maps = windows.astype(np.float32).reshape(-1, 1, 1)
        logical = -maps if any("maps" in one or one == "logical" for one in wanted) else None
        return WindowMaps(maps, logical, maps.astype(np.float16) if any("features" in one for one in wanted) else None)

    async def held(self) -> None:
        """Wait until a batch is at the gate."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


def picture(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64).reshape(-1, 1, 1, 1)


def numbers_of(answer: Answer) -> list[int]:
    assert answer.maps.logical is not None
    np.testing.assert_array_equal(answer.maps.logical, -answer.maps.structural)
    return [int(number) for number in answer.maps.structural.ravel()]


class Clock:
    """The batcher's clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("service.engine.batcher.time", made)
    return made


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    made = Batcher(queue_windows=64)
    yield made
    made.close()


async def start(*coroutines: Any) -> list[asyncio.Task[Any]]:
    """Tasks that have all reached the batcher, in order."""
    tasks = []
    for coroutine in coroutines:
        tasks.append(asyncio.create_task(coroutine))
        await asyncio.sleep(0)
    return tasks


def test_a_picture_comes_back_in_order(batcher: Batcher) -> None:
    answer = asyncio.run(batcher.submit(Numbers(), picture(3, 1, 2), FOREVER))
    assert numbers_of(answer) == [3, 1, 2]


def test_what_waits_when_the_device_is_free_goes_together(batcher: Batcher) -> None:
    runner = Numbers()

    async def scenario() -> list[Answer]:
        runner.gate.clear()
        tasks = await start(batcher.submit(runner, picture(0), FOREVER))
        await runner.held()
        tasks += await start(*(batcher.submit(runner, picture(number), FOREVER) for number in range(1, 7)))
        runner.gate.set()
        return await asyncio.gather(*tasks)

    answers = asyncio.run(scenario())
    assert [numbers_of(answer) for answer in answers] == [[number] for number in range(7)]
    assert runner.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_large_picture_spans_batches_and_shares_its_last(batcher: Batcher) -> None:
    runner = Numbers()

    async def scenario() -> list[Answer]:
        runner.gate.clear()
        tasks = await start(batcher.submit(runner, picture(0), FOREVER))
        await runner.held()
        tasks += await start(
            batcher.submit(runner, picture(*range(10, 19)), FOREVER), batcher.submit(runner, picture(20, 21), FOREVER)
        )
        runner.gate.set()
        return await asyncio.gather(*tasks)

    assert [numbers_of(answer) for answer in asyncio.run(scenario())] == [[0], list(range(10, 19)), [20, 21]]
    assert runner.batches == [[0], [10, 11, 12, 13], [14, 15, 16, 17], [18, 20, 21]]


def test_two_models_never_share_a_batch_and_take_turns_by_arrival(batcher: Batcher) -> None:
    first, second = Numbers(), Numbers()

    async def scenario() -> None:
        first.gate.clear()
        tasks = await start(batcher.submit(first, picture(0), FOREVER))
        await first.held()
        tasks += await start(
            batcher.submit(second, picture(1), FOREVER),
            batcher.submit(first, picture(2), FOREVER),
            batcher.submit(second, picture(3), FOREVER),
        )
        first.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert first.batches == [[0], [2]]
    assert second.batches == [[1, 3]]


def test_a_busy_model_does_not_make_another_wait_for_all_that_it_has_queued(batcher: Batcher) -> None:
    busy, rare = Numbers(ladder=(1,)), Numbers(ladder=(1,))
    order: list[str] = []
    busy.judge, rare.judge = lambda _: order.append("busy"), lambda _: order.append("rare")

    async def scenario() -> None:
        busy.gate.clear()
        tasks = await start(batcher.submit(busy, picture(0), FOREVER))
        await busy.held()
        tasks += await start(*(batcher.submit(busy, picture(number), FOREVER) for number in range(1, 6)))
        tasks += await start(*(batcher.submit(rare, picture(number), FOREVER) for number in range(2)))
        busy.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert order == ["busy", "rare", "busy", "rare", "busy", "busy", "busy", "busy"]
    assert [number for batch in busy.batches for number in batch] == list(range(6))  # its own order stays


def test_many_models_take_turns(batcher: Batcher) -> None:
    runners = [Numbers(ladder=(1,)) for _ in range(3)]
    order: list[int] = []
    for place, runner in enumerate(runners):
        runner.judge = lambda _, place=place: order.append(place)

    async def scenario() -> None:
        runners[0].gate.clear()
        tasks = await start(batcher.submit(runners[0], picture(0), FOREVER))
        await runners[0].held()
        for runner in runners:
            tasks += await start(*(batcher.submit(runner, picture(number), FOREVER) for number in range(3)))
        runners[0].gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert order == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def test_a_model_with_less_than_its_share_is_let_in_beyond_the_bound() -> None:
    batcher = Batcher(queue_windows=10)
    busy, rare, third = Numbers(), Numbers(), Numbers()
    try:
        with batcher.reserve(6, busy), batcher.reserve(4, busy):
            with pytest.raises(Overloaded), batcher.reserve(1, busy):
                pass
            with batcher.reserve(4, rare), batcher.reserve(1, rare):
                with pytest.raises(Overloaded), batcher.reserve(1, rare):  # an even share of two is 5
                    pass
                with batcher.reserve(3, third), pytest.raises(Overloaded), batcher.reserve(1, third):
                    pass
            assert batcher.reserved_windows == 10
            with batcher.reserve(6, rare):  # one picture, however large
                pass
        with batcher.reserve(10, rare):  # nothing is left of the others
            pass
    finally:
        batcher.close()


def test_all_models_together_stay_below_twice_the_bound() -> None:
    batcher = Batcher(queue_windows=8)
    try:
        with contextlib.ExitStack() as held:
            held.enter_context(batcher.reserve(8, Numbers()))
            for _ in range(100):
                with contextlib.suppress(Overloaded):
                    held.enter_context(batcher.reserve(1, Numbers()))
            assert 8 < batcher.reserved_windows <= 16
        assert batcher.reserved_windows == 0
    finally:
        batcher.close()


def test_the_bound_counts_windows_and_says_when_to_come_back() -> None:
    batcher = Batcher(queue_windows=10)
    try:
        with batcher.reserve(6), batcher.reserve(4):
            waits = []
            for windows in (2, 8):
                with pytest.raises(Overloaded) as refused, batcher.reserve(windows):
                    pass
                waits.append(refused.value.retry_after or 0)
            assert waits[1] == pytest.approx(4 * waits[0])
            assert batcher.reserved_windows == 10
            assert batcher.pictures == 2
        with batcher.reserve(10):
            pass
        with pytest.raises(TooLarge, match="11 windows"), batcher.reserve(11):
            pass
    finally:
        batcher.close()


def test_retry_after_follows_the_measured_speed(clock: Clock) -> None:
    batcher = Batcher(queue_windows=1)

    def take_a_minute(_: list[int]) -> None:
        clock.now += 60

    def wait_now() -> float:
        with batcher.reserve(1), pytest.raises(Overloaded) as refused, batcher.reserve(1):
            pass
        return refused.value.retry_after or 0

    try:
        before = wait_now()
        for _ in range(30):
            asyncio.run(batcher.submit(Numbers(judge=take_a_minute), picture(1), FOREVER))
        assert before < 1
        assert wait_now() == pytest.approx(60, rel=0.05)
    finally:
        batcher.close()


def test_without_a_bound_of_its_own_half_a_second_s_work_is_let_in_and_a_few_pictures_always(clock: Clock) -> None:
    batcher, seconds = Batcher(None), 0.019

    def take(windows: list[int]) -> None:
        clock.now += seconds * len(windows)

    def let_in(windows: int) -> int:
        with contextlib.ExitStack() as held:
            try:
                while True:
                    held.enter_context(batcher.reserve(windows))
            except Overloaded:
                return batcher.pictures

    try:
        assert let_in(1) == 64  # nothing is known of the device yet
        asyncio.run(batcher.submit(Numbers(judge=take), picture(1, 2, 3, 4), FOREVER))
        assert let_in(1) == 26
        assert let_in(4) == 8  # more than half a second's
        assert let_in(20) == 3  # never more than 64 windows
        with batcher.reserve(64), pytest.raises(Overloaded) as refused, batcher.reserve(20):
            pass
        assert refused.value.retry_after == pytest.approx(20 * seconds)
        with pytest.raises(TooLarge, match="65 windows"), batcher.reserve(65):
            pass
        seconds = 0.001
        for _ in range(30):
            asyncio.run(batcher.submit(Numbers(judge=take), picture(1), FOREVER))
        assert let_in(4) == 16
    finally:
        batcher.close()


def test_room_comes_back_when_the_picture_fails() -> None:
    batcher = Batcher(queue_windows=2)
    with pytest.raises(RuntimeError, match="decoding"), batcher.reserve(2):
        raise RuntimeError("decoding")
    assert batcher.reserved_windows == batcher.pictures == 0
    batcher.close()


def test_the_expired_are_told_and_never_run(batcher: Batcher) -> None:
    runner = Numbers()
    with pytest.raises(DeadlineExceeded):
        asyncio.run(batcher.submit(runner, picture(1), time.monotonic() - 1))
    assert runner.batches == []


def test_a_picture_that_expires_half_way_is_not_run_further(batcher: Batcher, clock: Clock) -> None:
    def pass_time(_: list[int]) -> None:
        clock.now += 10

    runner = Numbers(judge=pass_time)
    with pytest.raises(DeadlineExceeded):
        asyncio.run(batcher.submit(runner, picture(*range(12)), clock.now + 5))
    assert runner.batches == [[0, 1, 2, 3]]


def test_the_departed_are_dropped(batcher: Batcher) -> None:
    runner = Numbers()

    async def scenario() -> Answer:
        runner.gate.clear()
        half_way, waiting, staying = await start(
            batcher.submit(runner, picture(*range(8)), FOREVER),
            batcher.submit(runner, picture(20), FOREVER),
            batcher.submit(runner, picture(30), FOREVER),
        )
        await runner.held()
        half_way.cancel()
        waiting.cancel()
        await asyncio.wait({half_way, waiting})
        runner.gate.set()
        return await staying

    assert numbers_of(asyncio.run(scenario())) == [30]
    assert runner.batches == [[0, 1, 2, 3], [30]]


def refuse(*poison: int) -> Callable[[list[int]], None]:
    def judge(numbers: list[int]) -> None:
        if set(poison) & set(numbers):
            raise ValueError("indices element out of data bounds")

    return judge


def test_only_the_guilty_picture_of_a_batch_fails(batcher: Batcher, caplog: pytest.LogCaptureFixture) -> None:
    runner = Numbers(judge=refuse(2))

    async def scenario() -> list[Any]:
        runner.gate.clear()
        tasks = await start(batcher.submit(runner, picture(0), FOREVER))
        await runner.held()
        tasks += await start(*(batcher.submit(runner, picture(number), FOREVER) for number in (1, 2, 3)))
        runner.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert [numbers_of(outcomes[index]) for index in (0, 1, 3)] == [[0], [1], [3]]
    assert isinstance(outcomes[2], NetworkFailure)
    assert "out of data bounds" in outcomes[2].detail
    assert "one by one" in caplog.text


def test_a_large_guilty_picture_leaves_nothing_behind(batcher: Batcher) -> None:
    runner = Numbers(judge=refuse(5))
    with pytest.raises(NetworkFailure):
        asyncio.run(batcher.submit(runner, picture(*range(12)), FOREVER))
    assert numbers_of(asyncio.run(batcher.submit(runner, picture(99), FOREVER))) == [99]
    assert runner.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [99]]


def test_the_expired_are_not_run_again_after_a_failed_batch(batcher: Batcher, clock: Clock) -> None:
    def judge(numbers: list[int]) -> None:
        if len(numbers) > 1:
            clock.now += 10
            raise ValueError("out of memory")

    runner = Numbers(judge=judge)

    async def scenario() -> list[Any]:
        runner.gate.clear()
        tasks = await start(batcher.submit(runner, picture(0), FOREVER))
        await runner.held()
        tasks += await start(
            batcher.submit(runner, picture(1), clock.now + 5), batcher.submit(runner, picture(2), FOREVER)
        )
        runner.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert isinstance(outcomes[1], DeadlineExceeded)
    assert numbers_of(outcomes[2]) == [2]
    assert runner.batches == [[0], [1, 2], [2]]


def test_an_expected_error_keeps_its_kind(batcher: Batcher) -> None:
    def judge(_: list[int]) -> None:
        raise NotReady("the device is being rebuilt")

    with pytest.raises(NotReady, match="rebuilt"):
        asyncio.run(batcher.submit(Numbers(judge=judge), picture(1), FOREVER))


def test_a_network_that_answers_too_few_windows_fails_the_picture(batcher: Batcher) -> None:
    class Short(Numbers):
        def run(self, windows: np.ndarray, wanted: Sequence[Wanted]) -> WindowMaps:
            return super().run(windows[:-1], wanted[:-1])

    with pytest.raises(NetworkFailure, match="1 of 2 windows"):
        asyncio.run(batcher.submit(Short(), picture(1, 2), FOREVER))


def test_a_picture_without_windows_is_refused(batcher: Batcher) -> None:
    with pytest.raises(ValueError, match="at least one window"):
        asyncio.run(batcher.submit(Numbers(), picture(), FOREVER))


def test_the_thread_s_death_resolves_every_future_and_another_takes_over(batcher: Batcher) -> None:
    def judge(numbers: list[int]) -> None:
        if 0 in numbers:
            raise SystemExit("the inference thread is killed")

    runner = Numbers(judge=judge)

    async def scenario() -> tuple[list[Any], Answer]:
        runner.gate.clear()
        tasks = await start(*(batcher.submit(runner, picture(number, number), FOREVER) for number in range(6)))
        await runner.held()
        runner.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        return outcomes, await batcher.submit(runner, picture(7), FOREVER)

    outcomes, later = asyncio.run(scenario())
    assert all(isinstance(outcome, NetworkFailure) for outcome in outcomes)
    assert "died" in outcomes[0].detail
    assert numbers_of(later) == [7]
    assert batcher.alive


def test_closing_finishes_the_running_batch_and_turns_the_rest_away() -> None:
    batcher, runner = Batcher(queue_windows=64), Numbers()

    async def scenario() -> list[Any]:
        runner.gate.clear()
        tasks = await start(batcher.submit(runner, picture(0), FOREVER))
        await runner.held()
        tasks += await start(batcher.submit(runner, picture(1), FOREVER))
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        with pytest.raises(NotReady):
            await tasks[1]
        runner.gate.set()
        await closing
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert numbers_of(outcomes[0]) == [0]
    assert not batcher.alive
    with pytest.raises(NotReady):
        asyncio.run(batcher.submit(runner, picture(2), FOREVER))
    with pytest.raises(NotReady), batcher.reserve(1):
        pass


def test_death_while_closing_resolves_the_running_batch() -> None:
    def judge(_: list[int]) -> None:
        raise SystemExit

    batcher, runner = Batcher(queue_windows=64), Numbers(judge=judge)

    async def scenario() -> None:
        runner.gate.clear()
        (running, waiting) = await start(
            batcher.submit(runner, picture(0, 1, 2, 3), FOREVER), batcher.submit(runner, picture(4), FOREVER)
        )
        await runner.held()
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        with pytest.raises(NotReady):
            await waiting
        runner.gate.set()
        with pytest.raises(NetworkFailure):
            await running
        await closing

    asyncio.run(scenario())
    assert not batcher.alive


def test_times_of_waiting_and_running_are_told_apart(clock: Clock) -> None:
    seen: list[tuple[int, int, float]] = []
    batcher = Batcher(64, lambda runner, pictures, windows, seconds: seen.append((pictures, windows, seconds)))

    def judge(numbers: list[int]) -> None:
        clock.now += len(numbers)

    runner = Numbers(judge=judge)

    async def scenario() -> list[Answer]:
        runner.gate.clear()
        tasks = await start(batcher.submit(runner, picture(0), FOREVER))
        await runner.held()
        tasks += await start(
            batcher.submit(runner, picture(*range(10, 15)), FOREVER), batcher.submit(runner, picture(20), FOREVER)
        )
        runner.gate.set()
        return await asyncio.gather(*tasks)

    answers = asyncio.run(scenario())
    batcher.close()
    assert [(answer.queue_s, answer.network_s) for answer in answers] == [(0, 1), (1, 6), (5, 2)]
    assert seen == [(1, 1, 1), (1, 4, 4), (2, 2, 2)]


kinds = st.sampled_from(["wanted", "wanted", "wanted", "poison", "departing", "expired", "deadly"])


@settings(max_examples=60, deadline=None)
@given(
    plans=st.lists(st.tuples(st.integers(1, 9), kinds), min_size=1, max_size=25),
    top=st.sampled_from([1, 2, 4, 32]),
    bound=st.integers(9, 20),
)
def test_whatever_happens_every_picture_gets_its_own_answer(plans: list[tuple[int, str]], top: int, bound: int) -> None:
    numbers = [[100 * index + place for place in range(size)] for index, (size, _) in enumerate(plans)]
    poison = {numbers[index][-1] for index, (_, kind) in enumerate(plans) if kind == "poison"}
    deadly = {numbers[index][0] for index, (_, kind) in enumerate(plans) if kind == "deadly"}

    def judge(batch: list[int]) -> None:
        assert batcher.reserved_windows <= bound
        if deadly & set(batch):
            raise SystemExit
        if poison & set(batch):
            raise ValueError("poison")

    runner, batcher = Numbers((top,), judge), Batcher(bound)

    async def one(index: int, kind: str) -> Any:
        deadline = time.monotonic() - 1 if kind == "expired" else FOREVER
        while True:
            try:
                with batcher.reserve(len(numbers[index])):
                    task = asyncio.create_task(batcher.submit(runner, picture(*numbers[index]), deadline))
                    if kind == "departing":
                        await asyncio.sleep(0)
                        task.cancel()
                    return numbers_of(await task)
            except Overloaded:
                await asyncio.sleep(0)
            except FlawscribeError as error:
                return error
            except asyncio.CancelledError:
                return "departed"

    async def scenario() -> list[Any]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*(one(index, kind) for index, (_, kind) in enumerate(plans)))

    outcomes = asyncio.run(scenario())
    batcher.close()
    killed = bool(deadly)
    for index, (_, kind) in enumerate(plans):
        outcome = outcomes[index]
        if kind == "wanted" and not (killed and isinstance(outcome, NetworkFailure)):
            assert outcome == numbers[index]
        if kind in ("poison", "deadly"):
            assert isinstance(outcome, NetworkFailure)
        if kind == "expired" and not (killed and isinstance(outcome, NetworkFailure)):
            assert isinstance(outcome, DeadlineExceeded)
    assert max((len(batch) for batch in runner.batches), default=0) <= top
    ran = {number for batch in runner.batches for number in batch}
    assert not ran & {number for index, (_, kind) in enumerate(plans) if kind == "expired" for number in numbers[index]}
    assert batcher.reserved_windows == batcher.pictures == 0


def test_what_is_wanted_goes_with_each_window_also_in_pieces_and_beside_others(batcher: Batcher) -> None:
    runner = Numbers()
    kinds: list[Wanted] = ["structural", "structural", "logical"]

    async def scenario() -> list[Answer]:
        runner.gate.clear()
        tasks = await start(batcher.submit(runner, picture(0), FOREVER))
        await runner.held()
        tasks += await start(
            batcher.submit(runner, picture(1, 2, 3), FOREVER, wanted=kinds),
            batcher.submit(runner, picture(4, 5, 6), FOREVER, wanted=kinds),
            batcher.submit(runner, picture(7, 8, 9), FOREVER, wanted="maps and features"),
        )
        runner.gate.set()
        return await asyncio.gather(*tasks)

    first, second, third, described = asyncio.run(scenario())
    assert runner.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]
    both: list[Wanted] = ["maps and features"]
    assert runner.wanted == [["maps"], [*kinds, "structural"], [*kinds[1:], *both * 2], both]
    assert first.maps.features is None
    assert [numbers_of(answer) for answer in (second, third, described)] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert described.maps.features is not None
    assert described.maps.features.ravel().tolist() == [7, 8, 9]


def test_a_map_that_a_piece_of_a_picture_has_not_is_0_there(batcher: Batcher) -> None:
    runner = Numbers(ladder=(1, 2))
    wanted: list[Wanted] = ["structural", "structural", "logical", "structural and features", "structural"]
    maps = asyncio.run(batcher.submit(runner, picture(1, 2, 3, 4, 5), FOREVER, wanted=wanted)).maps
    assert runner.batches == [[1, 2], [3, 4], [5]]
    assert maps.structural.ravel().tolist() == [1, 2, 3, 4, 5]
    assert maps.logical is not None
    assert maps.logical.ravel().tolist() == [0, 0, -3, -4, 0]
    assert maps.features is not None
    assert maps.features.ravel().tolist() == [0, 0, 3, 4, 0]


def test_when_a_batch_of_several_kinds_fails_each_picture_s_own_windows_run_again_as_wanted(batcher: Batcher) -> None:
    def judge(numbers: list[int]) -> None:
        if 3 in numbers:
            raise RuntimeError("poison")

    runner = Numbers(judge=judge)
    kinds: list[Wanted] = ["structural", "logical"]

    async def scenario() -> list[Any]:
        runner.gate.clear()
        tasks = await start(batcher.submit(runner, picture(0), FOREVER))
        await runner.held()
        tasks += await start(
            batcher.submit(runner, picture(1, 2), FOREVER, wanted=kinds),
            batcher.submit(runner, picture(3, 4), FOREVER, wanted="maps"),
        )
        runner.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    _, fine, guilty = asyncio.run(scenario())
    assert isinstance(guilty, NetworkFailure)
    assert numbers_of(fine) == [1, 2]
    assert runner.wanted[1:] == [[*kinds, "maps", "maps"], kinds, ["maps", "maps"]]


def test_as_many_answers_are_wanted_as_a_picture_has_windows(batcher: Batcher) -> None:
    with pytest.raises(ValueError, match="1 answers are wanted of 2 windows"):
        asyncio.run(batcher.submit(Numbers(), picture(1, 2), FOREVER, wanted=["maps"]))
