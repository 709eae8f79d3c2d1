"""Deadlines of constant delay."""

import math

from hypothesis import given
from hypothesis import strategies as st

from roomhub.core.deadlines import Alarms, Deadlines


def make() -> Deadlines[str, int]:
    return Deadlines({"short": 1.0, "long": 10.0, "never": math.inf})


def test_nothing_is_next_before_anything_is_armed() -> None:
    deadlines = make()
    assert deadlines.next() == math.inf
    assert deadlines.expired(1e9) == []
    assert len(deadlines) == 0


def test_the_soonest_of_all_kinds_is_next() -> None:
    deadlines = make()
    deadlines.arm("long", 1, 0.0)
    assert deadlines.next() == 10.0
    deadlines.arm("short", 2, 3.0)
    assert deadlines.next() == 4.0
    assert len(deadlines) == 2


def test_what_has_ended_comes_out_once_oldest_first() -> None:
    deadlines = make()
    for key in (3, 1, 2):
        deadlines.arm("short", key, key / 10)
    deadlines.arm("long", 9, 0.0)
    deadlines.arm("short", 3, 0.35)
    assert deadlines.expired(1.2) == [("short", 1), ("short", 2)]
    assert deadlines.expired(1.2) == []
    assert deadlines.expired(10.0) == [("short", 3), ("long", 9)]


def test_an_end_is_reached_at_its_moment_and_not_before() -> None:
    deadlines = make()
    deadlines.arm("short", 1, 5.0)
    assert deadlines.expired(5.999) == []
    assert deadlines.expired(6.0) == [("short", 1)]


def test_armed_again_it_ends_later() -> None:
    deadlines = make()
    deadlines.arm("short", 1, 0.0)
    deadlines.arm("short", 1, 0.5)
    assert len(deadlines) == 1
    assert deadlines.next() == 1.5


def test_cancelled_it_never_ends() -> None:
    deadlines = make()
    deadlines.arm("short", 1, 0.0)
    deadlines.arm("long", 1, 0.0)
    deadlines.cancel("short", 1)
    deadlines.cancel("short", 1)
    assert not deadlines.is_armed("short", 1)
    assert deadlines.is_armed("long", 1)
    deadlines.cancel_all(1)
    assert len(deadlines) == 0


def test_an_infinite_delay_is_never_armed() -> None:
    deadlines = make()
    deadlines.arm("never", 1, 0.0)
    assert not deadlines.is_armed("never", 1)
    assert len(deadlines) == 0


Steps = st.lists(
    st.tuples(st.sampled_from(("arm", "cancel", "expire")), st.sampled_from(("short", "long")), st.integers(0, 4))
)


@given(Steps)
def test_it_equals_a_plain_dict(steps: list[tuple[str, str, int]]) -> None:
    deadlines = make()
    ends: dict[tuple[str, int], float] = {}
    for now, (step, kind, key) in enumerate(steps):
        if step == "arm":
            deadlines.arm(kind, key, now)
            ends[kind, key] = now + (1.0 if kind == "short" else 10.0)
        elif step == "cancel":
            deadlines.cancel(kind, key)
            ends.pop((kind, key), None)
        else:
            over = {item for item, end in ends.items() if end <= now}
            assert set(deadlines.expired(now)) == over
            for item in over:
                del ends[item]
        assert deadlines.next() == min(ends.values(), default=math.inf)
        assert len(deadlines) == len(ends)


def test_alarms_end_in_order_of_time_and_one_that_is_set_anew_replaces_the_one_before() -> None:
    alarms: Alarms[str] = Alarms()
    assert (alarms.next(), alarms.expired(9)) == (math.inf, [])
    for key, end in (("b", 5.0), ("a", 3.0), ("c", 4.0), ("b", 2.0)):
        alarms.set(key, end)
    alarms.cancel("c")
    alarms.cancel("unknown")
    assert (len(alarms), alarms.next()) == (2, 2.0)
    assert alarms.expired(2.5) == ["b"]
    assert alarms.expired(9) == ["a"]
    assert (len(alarms), alarms.next()) == (0, math.inf)


def test_alarms_that_are_set_anew_without_end_keep_no_trace() -> None:
    alarms: Alarms[str] = Alarms()
    for number in range(10_000):
        alarms.set("a", 1_000.0 + number)
    assert len(alarms._heap) <= 66
    assert alarms.next() == 10_999.0
