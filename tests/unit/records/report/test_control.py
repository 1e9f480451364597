from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.records.report.control import RULES, p_limits, signals, wilson

PAIRS = st.lists(
    st.integers(1, 500).flatmap(lambda size: st.tuples(st.integers(0, size), st.just(size))), min_size=1, max_size=40
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_agrees_with_published_values(successes: int, total: int, low: float, high: float) -> None:
    interval = wilson(successes, total)  # the last pair: Newcombe 1998, table I
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 10**7).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_holds_the_share_and_stays_in_range(pair: tuple[int, int]) -> None:
    interval = wilson(*pair)
    assert interval is not None
    assert 0 <= interval.low <= pair[0] / pair[1] <= interval.high <= 1


def test_wilson_of_nothing_is_unknown() -> None:
    assert wilson(0, 0) is None


@given(PAIRS)
def test_control_limits_lie_within_0_and_1_around_the_centre(pairs: list[tuple[int, int]]) -> None:
    centre, limits = p_limits([flawed for flawed, _ in pairs], [size for _, size in pairs])
    for at in limits:
        assert 0 <= at.lower <= centre <= at.upper <= 1


@given(PAIRS)
def test_a_point_is_beyond_its_limits_exactly_when_the_first_rule_says_so(pairs: list[tuple[int, int]]) -> None:
    _, limits = p_limits([flawed for flawed, _ in pairs], [size for _, size in pairs])
    fired = {
        at
        for signal in signals([limit.deviation for limit in limits])
        if signal.rule == "western-electric-1"
        for at in range(signal.first, signal.last + 1)
    }
    outside = {at for at, p in enumerate(limits) if p.share > p.upper + 1e-9 or p.share < p.lower - 1e-9}
    assert outside == fired


def test_a_larger_subgroup_has_narrower_limits() -> None:
    centre, (small, large) = p_limits([10, 40], [100, 400])
    assert centre == pytest.approx(0.1)
    assert (small.lower, small.upper) == pytest.approx((0.01, 0.19))
    assert (large.lower, large.upper) == pytest.approx((0.055, 0.145))


CALM = [0.4, -0.6, 1.2, -0.2, -1.1, 0.3, 0.8, -0.5, 0.2, -1.3, 0.6]
CASES = {
    "western-electric-1": ([*CALM[:4], 3.4, *CALM[4:]], 4, 4, "above"),
    "western-electric-2": ([*CALM[:4], -2.2, 0.1, -2.4, *CALM[5:]], 4, 6, "below"),
    "western-electric-3": ([*CALM[:5], 1.2, 1.4, 0.2, 1.3, 1.1, *CALM[7:]], 5, 9, "above"),
    "western-electric-4": ([0.5, -0.5, *[-0.3, -0.9, -0.2, -0.8] * 2, 0.4, -0.2, 0.3], 1, 9, "below"),
    "nelson-3": ([0.3, -0.8, -0.4, -0.1, 0.2, 0.5, 0.9, 0.1, -0.2], 1, 6, "above"),
    "nelson-4": ([0.5 * (-1) ** at + 0.01 * at for at in range(14)], 0, 13, "both"),
    "nelson-7": ([0.3, -0.2, 0.1, -0.4, 0.2] * 3, 0, 14, "both"),
    "nelson-8": ([1.2, -1.3, -1.4, 1.5, 1.1, -1.2, 1.3, -1.6], 0, 7, "both"),
}


@pytest.mark.parametrize("rule", CASES)
def test_each_rule_is_found_where_it_was_put(rule: str) -> None:
    series, first, last, side = CASES[rule]
    found = [(signal.first, signal.last, signal.side) for signal in signals(series) if signal.rule == rule]
    assert found == [(first, last, side)]


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in RULES} == set(CASES)


def test_a_calm_process_and_one_without_a_flaw_fire_no_rule() -> None:
    assert signals(CALM) == ()
    assert signals([0.0] * 30) == ()
    assert signals([]) == ()


@pytest.mark.parametrize("rule", ["western-electric-2", "western-electric-3", "western-electric-4", "nelson-3"])
def test_a_rule_does_not_fire_one_point_short(rule: str) -> None:
    short = {
        "western-electric-2": [0.1, 2.5, 0.3, -0.2, 2.5],
        "western-electric-3": [1.2, 1.3, 0.4, 1.2, 0.5, -0.2],
        "western-electric-4": [0.5, 0.2] * 3 + [0.4, -0.1],
        "nelson-3": [0.1, 0.2, 0.3, 0.4, 0.5, 0.5],
    }[rule]
    assert rule not in {signal.rule for signal in signals(short)}


def test_adjoining_windows_are_one_signal_and_parted_ones_two() -> None:
    long = [signal for signal in signals([0.5] * 12) if signal.rule == "western-electric-4"]
    assert [(signal.first, signal.last) for signal in long] == [(0, 11)]
    twice = [signal for signal in signals([3.5, 0.1, -0.2, 3.6]) if signal.rule == "western-electric-1"]
    assert [(signal.first, signal.last) for signal in twice] == [(0, 0), (3, 3)]


@given(st.lists(st.floats(-6, 6), max_size=40))
def test_mirrored_series_fire_mirrored_signals(series: list[float]) -> None:
    turned = {"above": "below", "below": "above", "both": "both"}
    straight = {(signal.rule, signal.first, signal.last, turned[signal.side]) for signal in signals(series)}
    assert straight == {
        (signal.rule, signal.first, signal.last, signal.side) for signal in signals([-x for x in series])
    }
