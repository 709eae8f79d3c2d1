"""Rates: so many a second, so many at once."""

import math

import pytest

from roomhub.core.rates import Rate


def taken(rate: Rate, at: list[float]) -> list[bool]:
    due = 0.0
    answers: list[bool] = []
    for now in at:
        following = rate.take(due, now)
        answers.append(following is not None)
        due = due if following is None else following
    return answers


def test_a_burst_and_then_the_rate() -> None:
    rate = Rate(2, 3)
    assert taken(rate, [10, 10, 10, 10, 10.4, 10.5, 10.5, 11, 11]) == [True] * 3 + [False] * 2 + [
        True,
        False,
        True,
        False,
    ]


def test_what_was_not_used_is_not_saved_up_past_the_burst() -> None:
    assert taken(Rate(1, 2), [0, 1000, 1000, 1000]) == [True, True, True, False]


@pytest.mark.parametrize(("per_s", "burst"), [(math.inf, 1), (1, math.inf), (math.inf, math.inf)])
def test_an_infinite_rate_or_burst_lets_everything_through(per_s: float, burst: float) -> None:
    assert all(taken(Rate(per_s, burst), [5.0] * 1000))


@pytest.mark.parametrize("now", [0.1, 1 / 3, 1e6 + 0.7])
def test_rounding_does_not_cost_the_last_of_a_burst(now: float) -> None:
    assert taken(Rate(50, 250), [now] * 251) == [True] * 250 + [False]
