"""Who may come in: caps, the rate of joins, names. Through the hub: tests/core/test_hub.py."""

import math

import pytest

from roomhub.core.admission import Admission
from roomhub.core.errors import DRAINING, OVER_CAPACITY
from roomhub.core.limits import Limits


def test_connections_are_counted_by_address_and_in_all() -> None:
    admission = Admission(Limits(connections=3, connections_per_address=2))
    admission.enter("x")
    admission.enter("x")
    assert admission.refusal("x") is OVER_CAPACITY
    assert admission.refusal("y") is None
    admission.enter("")
    assert admission.refusal("y") is OVER_CAPACITY
    admission.exit("x")
    assert admission.refusal("x") is admission.refusal("y") is None


def test_without_an_address_only_the_cap_in_all_counts() -> None:
    admission = Admission(Limits(connections_per_address=1))
    for _ in range(3):
        admission.enter("")
    assert admission.refusal("") is None


def test_addresses_that_have_gone_are_forgotten() -> None:
    admission = Admission(Limits())
    for number in range(100):
        admission.enter(f"a{number}")
        admission.exit(f"a{number}")
    assert not admission._addresses


def test_while_draining_nobody_is_taken() -> None:
    admission = Admission(Limits())
    admission.draining = True
    assert admission.refusal("x") is DRAINING


def test_joins_are_counted_by_user_and_address() -> None:
    admission = Admission(Limits(join_rate_per_s=1, join_burst=2))
    assert [admission.takes_join("x", "Ann", 5.0) for _ in range(3)] == [True, True, False]
    assert admission.takes_join("x", "Ben", 5.0)
    assert admission.takes_join("y", "Ann", 5.0)
    assert [admission.takes_join("x", "Ann", 6.0) for _ in range(2)] == [True, False]


@pytest.mark.parametrize(("rate", "burst"), [(10, 50), (10, math.inf), (math.inf, 50)])
def test_a_crowd_of_ever_new_names_is_not_remembered(rate: float, burst: float) -> None:
    admission = Admission(Limits(join_rate_per_s=rate, join_burst=burst))
    for _ in range(1_000):
        # Somebody who has joined often, just before all the others.
        admission.takes_join("x", "Ann", 0.0)
    for number in range(1_000):
        assert admission.takes_join("x", f"U{number}", number)
    assert len(admission._joins_due) < 10


def test_a_room_is_named_by_the_default_rule_or_by_the_program_s() -> None:
    assert Admission(Limits(room_bytes=3)).room_fault("abcd") is not None
    assert Admission(Limits(room_bytes=3)).room_fault("abc") is None
    admission = Admission(Limits(room_bytes=3), lambda room: "not that" if room == "x" else None)
    assert admission.room_fault("x") == "not that"
    assert admission.room_fault("a much longer one") is None


def test_the_program_s_rule_is_not_asked_for_what_no_wire_can_carry() -> None:
    asked: list[str] = []
    assert Admission(Limits(), asked.append).room_fault("\ud800") is not None
    assert asked == []
